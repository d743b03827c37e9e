"""Every command on a console with the code page 1252, which lacks most characters, with Japanese names everywhere."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import captioner_standalone
import launch
from acestep.cli.app import app, main
from acestep.core.log import set_up_logging
from tests.songs import write_song
from tests.training.songs import write_samples

SONG, TAG, CAPTION = "夜の歌 ☾", "歌声タグ", "静かなピアノ、女性の声 🎹"
COMMANDS = typer.main.get_command(app)
TRAIN = ["max_epochs=1", "lora.r=2", "measure_every_n_epochs=0", "save_every_n_epochs=0"]


def run(*arguments, command=main):
    """The exit code of a command, and what it prints, decoded from the bytes that arrive on the console."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="cp1252") for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", streams[1])
        code = command([str(argument) for argument in arguments])
        for stream in streams:
            stream.flush()
    set_up_logging()  # to the stderr of the test
    return code, "".join(stream.buffer.getvalue().decode("utf-8") for stream in streams)


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    """A song with labels, in a folder with a Japanese name."""
    folder = tmp_path_factory.mktemp("音楽 フォルダ") / "曲"
    song = write_song(folder / f"{SONG}.wav", seconds=11)
    labels = {"caption": CAPTION, "lyrics": "[verse]\n歌う", "genre": "日本", "bpm": 9999}
    song.with_suffix(".json").write_text(json.dumps(labels, ensure_ascii=False), "utf-8")
    (folder / "壊れた.wav").write_bytes(b"no audio")
    return folder


@pytest.fixture(scope="module")
def models(tiny_root, tmp_path_factory):
    """The tiny models in a folder with a Japanese name."""
    return Path(shutil.copytree(tiny_root, tmp_path_factory.mktemp("models") / "モデル"))


@pytest.fixture(scope="module")
def trained(models, tmp_path_factory):
    """A training run in a folder with a Japanese name."""
    folder = tmp_path_factory.mktemp("学習")
    checkpoint = models / "acestep-v15-tiny"
    tensors = write_samples(folder / "テンソル", checkpoint, [(20, 6)])
    (tensors / "song 0.pt").rename(tensors / f"{SONG}.pt")
    settings = [part for setting in TRAIN for part in ("--set", setting)]
    out = folder / "実行 ☾"
    assert run("train", tensors, "--checkpoint", checkpoint, "--out", out, *settings)[0] == 0
    return out


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS.commands), ["bench", "train"]], ids=" ".join)
def test_the_help_of_every_command_is_printed(command):
    code, text = run(*command, "--help")
    assert (code, "Usage" in text) == (0, True)


def test_songs_are_scanned_and_split(music, tmp_path):
    dataset = tmp_path / "データ.json"
    scan = ["scan", music, "--tag", TAG, "--name", "データ", "--out", dataset]
    for command in (scan, [*scan, "--json"], ["split", music, tmp_path / "断片", "--seconds", "10"]):
        code, text = run(*command)
        assert (code, "壊れた.wav" in text) == (0, True), text
    assert TAG in dataset.read_text("utf-8")


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_settings_memory_and_models_are_listed(more, tmp_path):
    for command in (
        ["settings", *(more or ["--markdown"])],
        ["settings", "lora.r"],
        ["memory", "--free", "8"],
        ["download", "list", "--root", tmp_path / "モデル"],
    ):
        code, text = run(*command, *more)
        assert code == 0, text


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_the_checks_of_this_computer_are_listed(more, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "エラー ☾")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    code, text = run("doctor", *more)
    assert (code, "エラー ☾" in text) == (1, True)


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_runs_are_listed_and_exported(trained, more, tmp_path):
    for command in (
        ["runs", trained.parent],
        ["export", trained, "--out", tmp_path / "輸出"],
        ["resize", trained, "--rank", "1", "--out", tmp_path / "小さい"],
        ["blend", f"{trained}=0.5", trained, "--out", tmp_path / "混合"],
    ):
        code, text = run(*command, *more)
        assert (code, str(command[-1]) in text or trained.name in text) == (0, True), text


def test_models_are_made_and_merged_and_adapters_are_imported(trained, models, tmp_path):
    checkpoint = ["--checkpoint", models / "acestep-v15-tiny"]
    assert run("export", trained, "--to", "comfyui", "--out", tmp_path / "輸出")[0] == 0
    for command in (
        ["make-tiny", tmp_path / "小さいモデル"],
        ["merge", "--adapter", trained, *checkpoint, "--out", tmp_path / "合成"],
        [
            "import",
            tmp_path / "輸出" / "輸出.safetensors",
            *checkpoint,
            "--trigger-word",
            TAG,
            "--out",
            tmp_path / "輸入",
        ],
    ):
        code, text = run(*command)
        assert (code, str(command[-1]) in text) == (0, True), text


def test_a_song_is_preprocessed_and_generated(trained, models, tmp_path):
    song = write_song(tmp_path / "曲" / f"{SONG}.wav", seconds=1)
    song.with_suffix(".json").write_text(json.dumps({"caption": CAPTION}), "utf-8")
    checkpoint = ["--checkpoint", models / "acestep-v15-tiny"]
    generate = ["generate", *checkpoint, "--adapter", trained, "--prompt", CAPTION, "--duration", "10", "--steps", "1"]
    for command in (
        ["preprocess", tmp_path / "曲", *checkpoint, "--out", tmp_path / "テンソル"],
        [*generate, "--out", tmp_path / "新しい歌.wav"],
    ):
        code, text = run(*command)
        assert (code, str(tmp_path) in text) == (0, True), text


def test_errors_name_what_was_entered(tmp_path):
    for expected, *command in (
        (1, "scan", tmp_path / "無い", "--tag", TAG),
        (1, "run", tmp_path / "無い", "--json"),
        (1, "settings", "無い"),
        (2, "scan", "--無い"),
    ):
        code, text = run(*command)
        assert (code, "無い" in text) == (expected, True), text


def test_the_other_entry_points_print_what_was_entered(tmp_path):
    for command, *arguments in (
        (captioner_standalone.main, "--input_dir", tmp_path / "無い"),
        (launch.main, "--skip-env-check", "--host", "無い"),
    ):
        code, text = run(*arguments, command=command)
        assert (code, "無い" in text) == (1, True), text
