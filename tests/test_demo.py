"""The demo is the product in small: if it ends well, the main job works."""

import json

from acestep.core.runs import read_run
from acestep.demo.run import run_demo


def test_the_demo_learns_and_its_export_sounds_the_same(tmp_path):
    said = []
    answer = run_demo(tmp_path / "my demo", steps=30, say=said.append)
    assert answer["fit_loss"] < 0.9 * min(answer["fit_loss_before"], answer["zero_loss"])
    assert answer["audio_difference"] > 0.01
    assert answer["export_difference"] == 0.0
    assert any("epoch 30/30" in line for line in said)
    run = tmp_path / "my demo" / "lora_output" / "demo-1"
    assert (read_run(run).state, read_run(run).step) == ("done", 30)
    for made in ("best", "final", "checkpoints", "logs"):
        assert (run / made).is_dir()
    assert json.loads((run / "final" / "adapter" / "adapter_config.json").read_text())["trigger_word"] == "chipdemo"
