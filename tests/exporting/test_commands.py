"""The adapter commands: their results and exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from acestep.cli.app import main
from tests.adapters.small import LORA, make_decoder, save, trained
from tests.exporting.models import make_run


def run_command(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> dict[str, Any]:
    assert main([*map(str, arguments), "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


@pytest.fixture
def run(tmp_path: Path, small_checkpoint: Path) -> Path:
    make_run(small_checkpoint, tmp_path / "my song", "lora", "alpha = r")
    return tmp_path / "my song"


def test_export_for_every_program_names_folders_after_the_run(
    tmp_path: Path, run: Path, small_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run_command(
        capsys, "export", run, "--to", "all", "--out", tmp_path / "out", "--checkpoint", small_checkpoint
    )
    assert set(result["targets"]) == {"acestep", "comfyui", "diffusers"}
    for each in result["targets"].values():
        assert each["output_error"] < 1e-4
        assert Path(each["adapter"]).exists()
    assert main(["export", str(run), "--to", "all", "--out", str(tmp_path / "out")]) == 0
    assert "comfyui: " in capsys.readouterr().out


def test_the_default_export_folder_has_the_name_of_the_run(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(capsys, "export", run)["adapter"] == str(Path("exports") / "my song")
    assert (tmp_path / "exports" / "my song" / "adapter_model.safetensors").is_file()


def test_merge_and_import_and_resize_and_blend(
    tmp_path: Path, run: Path, small_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged = tmp_path / "models" / "acestep-v15-merged"
    result = run_command(capsys, "merge", "--checkpoint", small_checkpoint, "--adapter", run, "--out", merged)
    assert result["run"] == str(merged)
    assert not list(tmp_path.rglob("*.job"))
    assert result["checkpoint"] == str(merged)
    assert [path.name for path in merged.parent.iterdir() if path.is_dir() and path.name[0] != "."] == [merged.name]
    result = run_command(
        capsys, "import", run / "final" / "adapter", "--out", tmp_path / "imported", "--trigger-word", "abc"
    )
    assert result["trigger_word"] == "abc"
    assert run_command(capsys, "resize", run, "--rank", "2", "--out", tmp_path / "small")["residual"] > 0
    pair = [f"{run}=0.5", run]
    assert run_command(capsys, "blend", *pair, "--out", tmp_path / "blend")["blended"] == 2
    result = run_command(capsys, "blend", f"{run}=half", run, "--out", tmp_path / "no", code=1)
    assert result["message"].startswith("'half' is not a valid weight")


def test_prove_accepts_prompts_and_seeds(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tiny_checkpoint, tmp_path / "run", "lora", "alpha = r")
    options = ("--checkpoint", tiny_checkpoint, "--adapter", tmp_path / "run", "--out", tmp_path / "proof")
    generation = ("--prompt", "a waltz", "--seed", "5", "--seed", "6", "--duration", "1", "--steps", "1")
    result = run_command(capsys, "prove", *options, *generation, "--device", "cpu")
    assert "The effect of the adapter is" in result["sentence"]
    assert [Path(base).name for base, _ in result["files"]] == ["01-seed-5-base.wav", "02-seed-6-base.wav"]


def test_user_errors_exit_with_code_1_and_a_hint(
    tmp_path: Path, small_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(trained(make_decoder("xl"), "lora", LORA), tmp_path / "xl" / "final" / "adapter")
    options = ("--checkpoint", small_checkpoint, "--adapter", tmp_path / "xl", "--out", tmp_path / "merged")
    result = run_command(capsys, "merge", *options, code=1)
    assert not list(tmp_path.rglob("*.job"))
    assert (result["error"], result["hint"]) == ("ModelMismatch", "Choose the model it was trained on.")
    result = run_command(capsys, "export", tmp_path, "--out", tmp_path / "out", code=1)
    assert result["error"] == "AdapterError"
    assert result["hint"]
