"""Models are fetched whole or not at all, from either of two hubs, and taken up where they broke off."""

from __future__ import annotations

import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from filelock import FileLock

from acestep.core.errors import DiskFull, DownloadError, JobBusy, JobCancelled, UnknownName
from acestep.core.events import Event, LogMessage, Progressed, Saved
from acestep.models import fetch
from acestep.models.catalog import CATALOG, find_model, with_needs
from acestep.models.download import download, is_present
from tests.fake_hub import FakeHub, running, weights

BASE = "acestep-v15-base"
MODEL = {
    "config.json": b"{}",
    "model.safetensors": weights(400_000),
    "silence_latent.pt": b"silence",
    "modeling_acestep_v15_base.py": b"raise SystemExit",
    ".gitattributes": b"*.safetensors filter=lfs",
}
MAIN = {
    "README.md": b"hello",
    **{f"acestep-v15-turbo/{name}": data for name, data in MODEL.items()},
    "vae/config.json": b"{}",
    "vae/diffusion_pytorch_model.safetensors": weights(),
    "Qwen3-Embedding-0.6B/config.json": b"{}",
    "Qwen3-Embedding-0.6B/tokenizer_config.json": b"{}",
    "Qwen3-Embedding-0.6B/model-00001-of-00002.safetensors": weights(),
    "Qwen3-Embedding-0.6B/model-00002-of-00002.safetensors": weights().replace(b"weight", b"second"),
    "Qwen3-Embedding-0.6B/model.safetensors.index.json": b'{"weight_map": '
    b'{"weight": "model-00001-of-00002.safetensors", "second": "model-00002-of-00002.safetensors"}}',
    "acestep-5Hz-lm-1.7B/config.json": b"{}",
    "acestep-5Hz-lm-1.7B/tokenizer_config.json": b"{}",
    "acestep-5Hz-lm-1.7B/model.safetensors": weights(),
}
REPOS = {"ACE-Step/Ace-Step1.5": MAIN, f"ACE-Step/{BASE}": MODEL}
Hubs = namedtuple("Hubs", "huggingface modelscope")


@pytest.fixture
def hubs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hubs]:
    monkeypatch.setattr(fetch, "RETRY_WAITS_S", (0.0, 0.0))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with running(FakeHub(dict(REPOS))) as first, running(FakeHub(dict(REPOS))) as second:
        monkeypatch.setenv("HF_ENDPOINT", first.url)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", second.url)
        yield Hubs(first, second)


@pytest.fixture
def with_companions(tmp_path: Path) -> Path:
    """A checkpoints folder that lacks nothing but the music model itself."""
    for path, data in MAIN.items():
        if path.startswith(("vae/", "Qwen3")):
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_bytes(data)
    return tmp_path


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_main_model_comes_with_what_it_needs_and_without_language_model_or_code(hubs: Hubs, tmp_path: Path) -> None:
    folders = download(["main"], tmp_path)

    assert [folder.name for folder in folders] == ["acestep-v15-turbo", "vae", "Qwen3-Embedding-0.6B"]
    assert files_in(folders[0]) == {"config.json", "model.safetensors", "silence_latent.pt"}
    assert (folders[0] / "model.safetensors").read_bytes() == MODEL["model.safetensors"]
    assert not hubs.huggingface.asked("lm-1.7B")
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {folder.name for folder in folders}


@pytest.mark.parametrize("source", ["huggingface", "modelscope"])
def test_either_source_brings_the_same_files(
    hubs: Hubs, with_companions: Path, source: Literal["huggingface", "modelscope"]
) -> None:
    [folder, *_] = download([BASE], with_companions, source=source)

    assert files_in(folder) == {"config.json", "model.safetensors", "silence_latent.pt"}
    assert is_present(BASE, with_companions)
    other = hubs.modelscope if source == "huggingface" else hubs.huggingface
    assert not other.requests


def test_a_second_call_fetches_nothing(hubs: Hubs, with_companions: Path) -> None:
    download([BASE], with_companions)
    hubs.huggingface.requests.clear()

    assert download([BASE], with_companions)[0] == with_companions / BASE
    assert not hubs.huggingface.requests


def test_cut_connections_are_taken_up_where_they_broke(hubs: Hubs, with_companions: Path) -> None:
    hubs.huggingface.cuts["model.safetensors"] = [100_000, 300_000]

    [folder, *_] = download([BASE], with_companions)

    assert (folder / "model.safetensors").read_bytes() == MODEL["model.safetensors"]
    ranges = [headers.get("range") for _, path, headers in hubs.huggingface.asked("/cdn/") if "model" in path]
    assert ranges == [None, "bytes=100000-", "bytes=400000-"]


def test_a_server_without_ranges_begins_the_file_again(hubs: Hubs, with_companions: Path) -> None:
    hubs.huggingface.cuts["model.safetensors"] = [100_000]
    hubs.huggingface.ignore_range = True

    [folder, *_] = download([BASE], with_companions)

    assert (folder / "model.safetensors").read_bytes() == MODEL["model.safetensors"]


def test_a_later_call_goes_on_where_an_earlier_one_was_stopped(hubs: Hubs, with_companions: Path) -> None:
    part = with_companions / f".{BASE}.partial" / "model.safetensors.part"
    with pytest.raises(JobCancelled):
        download([BASE], with_companions, should_stop=lambda: part.exists() and part.stat().st_size > 500_000)
    arrived = part.stat().st_size
    assert not is_present(BASE, with_companions)
    hubs.huggingface.requests.clear()

    download([BASE], with_companions)

    [_, _, headers] = next(request for request in hubs.huggingface.asked("/cdn/") if "model" in request[1])
    assert headers["range"] == f"bytes={arrived}-"
    assert is_present(BASE, with_companions)


def test_a_damaged_file_is_fetched_again_and_then_refused(hubs: Hubs, with_companions: Path) -> None:
    hubs.huggingface.corrupt["model.safetensors"] = 1
    download([BASE], with_companions, source="huggingface")
    assert is_present(BASE, with_companions)

    shutil.rmtree(with_companions / BASE)
    hubs.huggingface.corrupt["model.safetensors"] = 9
    with pytest.raises(DownloadError, match=r"checksum of model\.safetensors was wrong twice"):
        download([BASE], with_companions, source="huggingface")
    assert not (with_companions / BASE).exists()


def test_a_damaged_small_file_is_noticed_too(hubs: Hubs, with_companions: Path) -> None:
    hubs.huggingface.corrupt["config.json"] = 9
    with pytest.raises(DownloadError, match=r"checksum of config\.json was wrong"):
        download([BASE], with_companions, source="huggingface")


def test_a_model_that_is_published_incomplete_is_not_accepted(hubs: Hubs, with_companions: Path) -> None:
    hubs.huggingface.repos[f"ACE-Step/{BASE}"] = {"config.json": b"{}", "model.safetensors": weights()[:-9]}
    with pytest.raises(DownloadError, match="not a complete model"):
        download([BASE], with_companions, source="huggingface")
    assert not is_present(BASE, with_companions)


def test_too_small_a_disk_is_told_before_anything_is_fetched(
    hubs: Hubs, with_companions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(DiskFull, match="MiB left"):
        download([BASE], with_companions)
    assert not hubs.huggingface.asked("/resolve/")
    assert not hubs.modelscope.requests


@pytest.mark.parametrize(
    ("status", "words"), [(404, "has no"), (401, "denies access"), (403, "denies access"), (429, "rate-limiting")]
)
def test_refusals_are_told_in_words(hubs: Hubs, with_companions: Path, status: int, words: str) -> None:
    hubs.modelscope.status = status
    with pytest.raises(DownloadError, match=words) as caught:
        download([BASE], with_companions, source="modelscope")
    assert f"HTTP {status}" in str(caught.value)


def test_an_unknown_repository_of_hugging_face_is_told_in_words(hubs: Hubs, with_companions: Path) -> None:
    del hubs.huggingface.repos[f"ACE-Step/{BASE}"]
    with pytest.raises(DownloadError, match=rf"has no ACE-Step/{BASE}"):
        download([BASE], with_companions, source="huggingface")


def test_when_hugging_face_lacks_the_model_modelscope_brings_it(hubs: Hubs, with_companions: Path) -> None:
    del hubs.huggingface.repos[f"ACE-Step/{BASE}"]
    events: list[Event] = []

    download([BASE], with_companions, on_progress=events.append)

    assert is_present(BASE, with_companions)
    assert [
        event for event in events if isinstance(event, LogMessage) and event.warning and "Hugging Face" in event.message
    ]


def test_when_hugging_face_is_down_modelscope_is_asked_first(
    hubs: Hubs, with_companions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    events: list[Event] = []

    download([BASE], with_companions, on_progress=events.append)

    assert is_present(BASE, with_companions)
    assert "Hugging Face does not answer" in str(events[2])


def test_when_both_fail_the_error_names_both_reasons(hubs: Hubs, with_companions: Path) -> None:
    del hubs.huggingface.repos[f"ACE-Step/{BASE}"]
    hubs.modelscope.status = 403
    with pytest.raises(DownloadError, match=r"Hugging Face: .* has no .*; ModelScope: .* denies access"):
        download([BASE], with_companions)


def test_what_one_hub_brought_is_used_by_the_other(hubs: Hubs, with_companions: Path) -> None:
    hubs.huggingface.corrupt["silence_latent.pt"] = 9
    download([BASE], with_companions)
    assert is_present(BASE, with_companions)
    assert not hubs.modelscope.asked("FilePath=model.safetensors")


def test_an_incomplete_folder_is_completed_and_its_other_files_stay(hubs: Hubs, with_companions: Path) -> None:
    folder = with_companions / BASE
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(MODEL["model.safetensors"])
    (folder / "notes.txt").write_text("mine")

    download([BASE], with_companions)

    assert is_present(BASE, with_companions)
    assert (folder / "notes.txt").read_text() == "mine"
    assert not hubs.huggingface.asked("model.safetensors")


def test_the_token_goes_to_the_hub_and_not_to_the_delivery_network(hubs: Hubs, with_companions: Path) -> None:
    download([BASE], with_companions, token="hf_secret")
    tokens = {
        ("/cdn/" in path, headers.get("authorization")) for _, path, headers in hubs.huggingface.requests if path != "/"
    }
    assert tokens == {(False, "Bearer hf_secret"), (True, None)}


def test_paths_that_leave_the_folder_are_not_written(hubs: Hubs, with_companions: Path) -> None:
    hubs.huggingface.repos[f"ACE-Step/{BASE}"] = {**MODEL, "../escaped.json": b"{}", "/tmp/escaped.json": b"{}"}
    download([BASE], with_companions)
    assert not list(with_companions.rglob("escaped.json"))
    assert not Path("/tmp/escaped.json").exists()


def test_two_downloads_of_one_model_do_not_mix(hubs: Hubs, with_companions: Path) -> None:
    with FileLock(with_companions / f".{BASE}.lock"), pytest.raises(JobBusy, match=BASE):
        download([BASE], with_companions)
    assert not hubs.huggingface.asked("/resolve/")


def test_offline_mode_is_respected(hubs: Hubs, with_companions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE"):
        download([BASE], with_companions)
    assert not hubs.huggingface.requests


def test_progress_is_told_in_mib_and_ends_at_the_total(hubs: Hubs, with_companions: Path) -> None:
    events: list[Event] = []
    download([BASE], with_companions, on_progress=events.append)
    steps = [event for event in events if isinstance(event, Progressed)]
    assert steps[-1].done == steps[-1].total == 1
    assert events[-1] == Saved(path=str(with_companions / BASE), role="model", time_s=events[-1].time_s)


def test_an_unknown_name_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="acestep-v15-bse") as caught:
        download(["acestep-v15-bse"], tmp_path)
    assert BASE in caught.value.hint


@pytest.mark.parametrize("missing", ["config.json", "silence_latent.pt", "model.safetensors"])
def test_a_model_that_lacks_a_file_is_not_present(hubs: Hubs, with_companions: Path, missing: str) -> None:
    download([BASE], with_companions)
    (with_companions / BASE / missing).unlink()
    assert not is_present(BASE, with_companions)


def test_a_model_with_a_missing_shard_is_not_present(hubs: Hubs, with_companions: Path) -> None:
    assert is_present("Qwen3-Embedding-0.6B", with_companions)
    (with_companions / "Qwen3-Embedding-0.6B" / "model-00002-of-00002.safetensors").unlink()
    assert not is_present("Qwen3-Embedding-0.6B", with_companions)


def test_a_diffusers_pipeline_is_present_when_each_of_its_parts_is(hubs: Hubs, tmp_path: Path) -> None:
    name = "acestep-v15-xl-base-diffusers"
    index = (
        b'{"_class_name": "AceStepPipeline", "scheduler": ["diffusers", "S"], "safety": [null, null],'
        b' "text_encoder": ["transformers", "Q"], "transformer": ["diffusers", "T"]}'
    )
    hubs.huggingface.repos[f"ACE-Step/{name}"] = {
        "model_index.json": index,
        "scheduler/scheduler_config.json": b"{}",
        "text_encoder/config.json": b"{}",
        "text_encoder/model.safetensors": weights(),
        "transformer/config.json": b"{}",
        "transformer/diffusion_pytorch_model.safetensors": weights(),
    }
    download([name], tmp_path)
    assert is_present(name, tmp_path)
    (tmp_path / name / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    assert not is_present(name, tmp_path)


def test_every_entry_of_the_catalog_can_be_found_and_brings_what_it_needs() -> None:
    assert len({model.name for model in CATALOG}) == len(CATALOG)
    for model in CATALOG:
        assert find_model(model.name) is model
        assert {*model.needs, model.name} == {part.name for part in with_needs([model.name])}
