"""The command line as a process: exit code, stdout and stderr."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.training.songs import write_samples

PROJECT = Path(__file__).parents[1]


def acestep(*arguments, timeout=180):
    command = [sys.executable, "-m", "acestep", *map(str, arguments)]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, cwd=PROJECT, capture_output=True, text=True, timeout=timeout
    )


def last_json(done):
    return json.loads(done.stdout.splitlines()[-1])


def test_help_does_not_import_torch():
    code = (
        "import sys; from acestep.cli.app import main; code = main(['--help']); "
        "sys.exit(code or any(name in sys.modules for name in ('torch', 'diffusers', 'gradio')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for command in [
        "demo",
        "make-tiny",
        "scan",
        "split",
        "preprocess",
        "train",
        "generate",
        "export",
        "runs",
        "run",
        "doctor",
    ]:
        assert command in done.stdout


@pytest.mark.parametrize("command", ["preprocess", "train", "generate", "scan", "export"])
def test_each_command_has_help(command):
    done = acestep(command, "--help")
    assert done.returncode == 0
    assert "--json" in done.stdout


def test_wrong_usage_exits_with_2():
    assert acestep("trian").returncode == 2
    assert acestep("scan").returncode == 2


def test_a_user_error_exits_with_1_a_message_and_a_hint_but_no_traceback(tmp_path):
    done = acestep("scan", tmp_path, "--tag", "x", "--out", tmp_path / "d.json", "--json")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    answer = last_json(done)
    assert answer["ok"] is False
    assert answer["error"] == "DatasetError"
    assert str(tmp_path) in answer["message"]
    assert answer["hint"]
    assert not (tmp_path / "d.json").exists()


def test_an_unknown_checkpoint_is_named_in_the_error(tmp_path):
    done = acestep("generate", "--checkpoint", "acestep-v15-nope", "--prompt", "x", "--out", tmp_path / "a.wav")
    assert done.returncode == 1
    assert "acestep-v15-nope" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_folder_has_no_runs(tmp_path):
    assert last_json(acestep("runs", tmp_path, "--json")) == {"ok": True, "runs": []}


def test_a_folder_without_a_job_is_rejected(tmp_path):
    done = acestep("run", tmp_path, "--json")
    assert (done.returncode, last_json(done)["error"]) == (1, "JobError")


def test_sigterm_stops_a_training_run_that_can_be_resumed(tmp_path, tiny_checkpoint):
    tensors = write_samples(tmp_path / "tensors", tiny_checkpoint, [(20, 6), (24, 8)])
    run = tmp_path / "my run"
    steps = ["--set", "max_epochs=100000", "--set", "lora.r=4", "--set", "measure_every_n_epochs=0"]
    train = ["train", tensors, "--checkpoint", tiny_checkpoint, "--out", run, *steps]
    command = [sys.executable, "-m", "acestep", *map(str, train), "--json"]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: "StepLogged" in read(run / "events.jsonl"), process)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert json.loads(stdout.splitlines()[-1])["state"] == "stopped"
    assert list((run / "checkpoints").iterdir())
    again = acestep(*train, "--json")
    assert (again.returncode, last_json(again)["error"]) == (1, "TrainingError")
    assert "--resume auto" in again.stderr
    process = subprocess.Popen(
        [*command[:3], "run", str(run)], stdin=subprocess.DEVNULL, cwd=PROJECT, stderr=subprocess.PIPE, text=True
    )
    before = read(run / "events.jsonl").count("StepLogged")
    wait_for(lambda: read(run / "events.jsonl").count("StepLogged") > before + 1, process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130


def read(path):
    return path.read_text() if path.exists() else ""


def wait_for(happened, process, seconds=90):
    end = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)


def test_a_setting_is_found_by_name(tmp_path):
    rows = last_json(acestep("settings", "lora.r", "--json"))["settings"]
    assert [(row["default"], row["takes"]) for row in rows] == [("64", "whole number from 1 to 4096")]
    done = acestep("settings", "lora.rnak")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "lora.ranks" in done.stderr
