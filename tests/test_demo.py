"""The demo runs the complete workflow: if it succeeds, scan, preprocess, train, export and generate work together."""

import json

from acestep.core.runs import read_run
from acestep.demo.run import run_demo


def test_the_demo_adapter_learns_and_its_export_generates_the_same_audio(tmp_path):
    lines = []
    answer = run_demo(tmp_path / "my demo", steps=30, write_line=lines.append)
    assert answer["fit_loss"] < 0.9 * min(answer["fit_loss_before"], answer["zero_loss"])
    assert answer["audio_difference"] > 0.01
    assert answer["export_difference"] == 0.0
    assert any("epoch 30/30" in line for line in lines)
    run = tmp_path / "my demo" / "lora_output" / "demo-1"
    assert (read_run(run).state, read_run(run).step) == ("done", 30)
    for name in ("best", "final", "checkpoints", "logs"):
        assert (run / name).is_dir()
    assert json.loads((run / "final" / "adapter" / "adapter_config.json").read_text())["trigger_word"] == "chipdemo"
