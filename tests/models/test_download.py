"""Downloads from both hubs: complete or not at all, verified, and resumed after interruptions."""

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
from tests.fake_hub import FakeHub, serve, weights

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
    with serve(FakeHub(dict(REPOS))) as first, serve(FakeHub(dict(REPOS))) as second:
        monkeypatch.setenv("HF_ENDPOINT", first.url)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", second.url)
        yield Hubs(first, second)


@pytest.fixture
def shared_components(tmp_path: Path) -> Path:
    """A checkpoints folder in which only the music model is missing."""
    for path, data in MAIN.items():
        if path.startswith(("vae/", "Qwen3")):
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_bytes(data)
    return tmp_path


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_main_model_downloads_its_components_but_no_language_model_or_code(hubs: Hubs, tmp_path: Path) -> None:
    folders = download(["main"], tmp_path)

    assert [folder.name for folder in folders] == ["acestep-v15-turbo", "vae", "Qwen3-Embedding-0.6B"]
    assert files_in(folders[0]) == {"config.json", "model.safetensors", "silence_latent.pt"}
    assert (folders[0] / "model.safetensors").read_bytes() == MODEL["model.safetensors"]
    assert not hubs.huggingface.requests_for("lm-1.7B")
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {folder.name for folder in folders}


@pytest.mark.parametrize("source", ["huggingface", "modelscope"])
def test_both_sources_download_the_same_files(
    hubs: Hubs, shared_components: Path, source: Literal["huggingface", "modelscope"]
) -> None:
    [folder, *_] = download([BASE], shared_components, source=source)

    assert files_in(folder) == {"config.json", "model.safetensors", "silence_latent.pt"}
    assert is_present(BASE, shared_components)
    other = hubs.modelscope if source == "huggingface" else hubs.huggingface
    assert not other.requests


def test_a_second_call_downloads_nothing(hubs: Hubs, shared_components: Path) -> None:
    download([BASE], shared_components)
    hubs.huggingface.requests.clear()

    assert download([BASE], shared_components)[0] == shared_components / BASE
    assert not hubs.huggingface.requests


def test_broken_connections_are_resumed(hubs: Hubs, shared_components: Path) -> None:
    hubs.huggingface.disconnects["model.safetensors"] = [100_000, 300_000]

    [folder, *_] = download([BASE], shared_components)

    assert (folder / "model.safetensors").read_bytes() == MODEL["model.safetensors"]
    ranges = [headers.get("range") for _, path, headers in hubs.huggingface.requests_for("/cdn/") if "model" in path]
    assert ranges == [None, "bytes=100000-", "bytes=400000-"]


def test_a_server_without_range_support_restarts_the_file(hubs: Hubs, shared_components: Path) -> None:
    hubs.huggingface.disconnects["model.safetensors"] = [100_000]
    hubs.huggingface.ignore_range = True

    [folder, *_] = download([BASE], shared_components)

    assert (folder / "model.safetensors").read_bytes() == MODEL["model.safetensors"]


def test_a_cancelled_download_is_resumed_by_the_next_call(hubs: Hubs, shared_components: Path) -> None:
    part = shared_components / f".{BASE}.partial" / "model.safetensors.part"
    with pytest.raises(JobCancelled):
        download([BASE], shared_components, should_stop=lambda: part.exists() and part.stat().st_size > 500_000)
    arrived = part.stat().st_size
    assert not is_present(BASE, shared_components)
    hubs.huggingface.requests.clear()

    download([BASE], shared_components)

    [_, _, headers] = next(request for request in hubs.huggingface.requests_for("/cdn/") if "model" in request[1])
    assert headers["range"] == f"bytes={arrived}-"
    assert is_present(BASE, shared_components)


def test_a_corrupted_file_is_downloaded_again_and_then_rejected(hubs: Hubs, shared_components: Path) -> None:
    hubs.huggingface.corrupt["model.safetensors"] = 1
    download([BASE], shared_components, source="huggingface")
    assert is_present(BASE, shared_components)

    shutil.rmtree(shared_components / BASE)
    hubs.huggingface.corrupt["model.safetensors"] = 9
    with pytest.raises(DownloadError, match=r"checksum of model\.safetensors was wrong twice"):
        download([BASE], shared_components, source="huggingface")
    assert not (shared_components / BASE).exists()


def test_a_corrupted_small_file_is_rejected(hubs: Hubs, shared_components: Path) -> None:
    hubs.huggingface.corrupt["config.json"] = 9
    with pytest.raises(DownloadError, match=r"checksum of config\.json was wrong"):
        download([BASE], shared_components, source="huggingface")


def test_an_incomplete_published_model_is_rejected(hubs: Hubs, shared_components: Path) -> None:
    hubs.huggingface.repos[f"ACE-Step/{BASE}"] = {"config.json": b"{}", "model.safetensors": weights()[:-9]}
    with pytest.raises(DownloadError, match="not a complete model"):
        download([BASE], shared_components, source="huggingface")
    assert not is_present(BASE, shared_components)


def test_a_full_disk_is_reported_before_the_download(
    hubs: Hubs, shared_components: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(DiskFull, match="MiB left"):
        download([BASE], shared_components)
    assert not hubs.huggingface.requests_for("/resolve/")
    assert not hubs.modelscope.requests


@pytest.mark.parametrize(
    ("status", "message"), [(404, "has no"), (401, "denies access"), (403, "denies access"), (429, "rate-limiting")]
)
def test_http_errors_are_reported_with_a_clear_message(
    hubs: Hubs, shared_components: Path, status: int, message: str
) -> None:
    hubs.modelscope.status = status
    with pytest.raises(DownloadError, match=message) as caught:
        download([BASE], shared_components, source="modelscope")
    assert f"HTTP {status}" in str(caught.value)


def test_an_unknown_hugging_face_repository_is_reported(hubs: Hubs, shared_components: Path) -> None:
    del hubs.huggingface.repos[f"ACE-Step/{BASE}"]
    with pytest.raises(DownloadError, match=rf"has no ACE-Step/{BASE}"):
        download([BASE], shared_components, source="huggingface")


def test_modelscope_is_used_if_hugging_face_does_not_have_the_model(hubs: Hubs, shared_components: Path) -> None:
    del hubs.huggingface.repos[f"ACE-Step/{BASE}"]
    events: list[Event] = []

    download([BASE], shared_components, on_progress=events.append)

    assert is_present(BASE, shared_components)
    assert [
        event for event in events if isinstance(event, LogMessage) and event.warning and "Hugging Face" in event.message
    ]


def test_modelscope_is_tried_first_if_hugging_face_is_unreachable(
    hubs: Hubs, shared_components: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    events: list[Event] = []

    download([BASE], shared_components, on_progress=events.append)

    assert is_present(BASE, shared_components)
    assert "Hugging Face does not answer" in str(events[2])


def test_if_both_hubs_fail_the_error_gives_both_reasons(hubs: Hubs, shared_components: Path) -> None:
    del hubs.huggingface.repos[f"ACE-Step/{BASE}"]
    hubs.modelscope.status = 403
    with pytest.raises(DownloadError, match=r"Hugging Face: .* has no .*; ModelScope: .* denies access"):
        download([BASE], shared_components)


def test_a_partial_download_of_one_hub_is_resumed_from_the_other(hubs: Hubs, shared_components: Path) -> None:
    hubs.huggingface.corrupt["silence_latent.pt"] = 9
    download([BASE], shared_components)
    assert is_present(BASE, shared_components)
    assert not hubs.modelscope.requests_for("FilePath=model.safetensors")


def test_an_incomplete_folder_is_completed_and_keeps_its_other_files(hubs: Hubs, shared_components: Path) -> None:
    folder = shared_components / BASE
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(MODEL["model.safetensors"])
    (folder / "notes.txt").write_text("mine")

    download([BASE], shared_components)

    assert is_present(BASE, shared_components)
    assert (folder / "notes.txt").read_text() == "mine"
    assert not hubs.huggingface.requests_for("model.safetensors")


def test_the_token_is_sent_to_the_hub_but_not_to_the_cdn(hubs: Hubs, shared_components: Path) -> None:
    download([BASE], shared_components, token="hf_secret")
    tokens = {
        ("/cdn/" in path, headers.get("authorization")) for _, path, headers in hubs.huggingface.requests if path != "/"
    }
    assert tokens == {(False, "Bearer hf_secret"), (True, None)}


def unsafe_names(outside: Path) -> list[str]:
    """Names that lead outside the folder of the model, or are not a file name on some operating system."""
    names = [f"{outside}/abs", "../escaped", "a/../../escaped", "C:escaped", "C:/escaped", "//host/share/escaped"]
    names += ["\\\\host\\share\\escaped", "..\\escaped", "a\0escaped", "a\nescaped", "a//escaped", "./escaped"]
    names += ["con", "NUL", "com1.x", "LPT9", "a /escaped", "a./escaped", "a?escaped", "escaped" * 100]
    return [f"{name}.json" for name in names] + ["nul.json/escaped.json", "aux./escaped.json"]


def all_files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("source", ["huggingface", "modelscope"])
@pytest.mark.parametrize("model", [BASE, "vae"])
def test_unsafe_names_are_not_written(
    hubs: Hubs, shared_components: Path, source: Literal["huggingface", "modelscope"], model: str
) -> None:
    repo, prefix = ("ACE-Step/Ace-Step1.5", "vae/") if model == "vae" else (f"ACE-Step/{BASE}", "")
    hub, outside = getattr(hubs, source), shared_components / "outside"
    outside.mkdir()
    if model == "vae":
        shutil.rmtree(shared_components / "vae")
    before, unsafe = all_files(shared_components), unsafe_names(outside)
    hub.repos[repo] = {**hub.repos[repo], **{prefix + name: b"{}" for name in unsafe}}
    events: list[Event] = []

    download([model], shared_components, source=source, on_progress=events.append)

    expected = {name.removeprefix(prefix) for name in (MAIN if model == "vae" else MODEL) if name.startswith(prefix)}
    expected -= {"modeling_acestep_v15_base.py", ".gitattributes"}
    assert files_in(shared_components / model) == expected
    lock = {shared_components / f".{model}.lock"}
    assert all_files(shared_components) - before - lock == {shared_components / model / name for name in expected}
    assert len([event for event in events if "unsafe file name" in str(event)]) == len(unsafe)


@pytest.mark.parametrize("other", ["Config.json", "MODEL.safetensors", "config.json/config.json"])
def test_names_that_are_one_file_on_some_file_system_are_rejected(
    hubs: Hubs, shared_components: Path, other: str
) -> None:
    hubs.modelscope.repos[f"ACE-Step/{BASE}"] = {**MODEL, other: weights()}
    with pytest.raises(DownloadError, match="contains both") as caught:
        download([BASE], shared_components, source="modelscope")
    assert other in str(caught.value)
    assert not hubs.modelscope.requests_for("FilePath")


@pytest.mark.parametrize("link", [f".{BASE}.partial/sub", f".{BASE}.partial/config.json.part", f"{BASE}/sub"])
def test_a_link_in_the_folder_that_leads_outside_is_rejected(hubs: Hubs, shared_components: Path, link: str) -> None:
    outside, planted = shared_components / "outside", shared_components / link
    outside.mkdir()
    planted.parent.mkdir()
    planted.symlink_to(outside / "new.json" if link.endswith(".part") else outside)
    hubs.modelscope.repos[f"ACE-Step/{BASE}"] = {**MODEL, "sub/more.json": b"{}"}

    with pytest.raises(DownloadError, match="is a link to"):
        download([BASE], shared_components, source="modelscope")

    assert not list(outside.iterdir())


def test_a_model_folder_that_is_itself_a_link_is_completed(hubs: Hubs, shared_components: Path) -> None:
    (shared_components / "disk").mkdir()
    (shared_components / BASE).symlink_to(shared_components / "disk")
    download([BASE], shared_components)
    assert (shared_components / "disk" / "model.safetensors").is_file()


@pytest.mark.parametrize("source", ["huggingface", "modelscope"])
def test_a_file_that_is_longer_than_announced_is_cut_off(
    hubs: Hubs, shared_components: Path, source: Literal["huggingface", "modelscope"]
) -> None:
    hub = getattr(hubs, source)
    hub.longer["model.safetensors"] = 3_000_000
    with pytest.raises(DownloadError, match=r"sent more than the announced 1,600,\d+ bytes of model\.safetensors"):
        download([BASE], shared_components, source=source)
    assert not (shared_components / BASE).exists()
    assert not list(shared_components.rglob("model.safetensors*.part"))
    assert len([r for r in hub.requests_for("model.safetensors") if r[0] == "GET"]) <= 2  # with the redirect, no retry


@pytest.mark.parametrize(
    "entry", [{"Size": -1}, {"Size": 1e400}, {"Size": None}, {"Path": 7}, {"Path": "\ud800"}, {"Sha256": ["a"]}]
)
def test_a_malformed_file_list_is_rejected(
    hubs: Hubs, shared_components: Path, entry: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = {"Path": "config.json", "Size": 2, "Sha256": "", "Type": "blob"}
    monkeypatch.setattr("tests.fake_hub._modelscope_entry", lambda name, content: {**good, **entry})
    with pytest.raises(DownloadError, match="no valid file list"):
        download([BASE], shared_components, source="modelscope")


def test_concurrent_downloads_of_one_model_are_rejected(hubs: Hubs, shared_components: Path) -> None:
    with FileLock(shared_components / f".{BASE}.lock"), pytest.raises(JobBusy, match=BASE):
        download([BASE], shared_components)
    assert not hubs.huggingface.requests_for("/resolve/")


def test_offline_mode_is_respected(hubs: Hubs, shared_components: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE"):
        download([BASE], shared_components)
    assert not hubs.huggingface.requests


def test_progress_is_reported_in_mib_and_ends_at_the_total(hubs: Hubs, shared_components: Path) -> None:
    events: list[Event] = []
    download([BASE], shared_components, on_progress=events.append)
    steps = [event for event in events if isinstance(event, Progressed)]
    assert steps[-1].done == steps[-1].total == 1
    assert events[-1] == Saved(path=str(shared_components / BASE), role="model", time_s=events[-1].time_s)


def test_an_unknown_name_is_an_error_that_suggests_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="acestep-v15-bse") as caught:
        download(["acestep-v15-bse"], tmp_path)
    assert BASE in caught.value.hint


@pytest.mark.parametrize("missing", ["config.json", "silence_latent.pt", "model.safetensors"])
def test_a_model_with_a_missing_file_is_not_present(hubs: Hubs, shared_components: Path, missing: str) -> None:
    download([BASE], shared_components)
    (shared_components / BASE / missing).unlink()
    assert not is_present(BASE, shared_components)


def test_a_model_with_a_missing_shard_is_not_present(hubs: Hubs, shared_components: Path) -> None:
    assert is_present("Qwen3-Embedding-0.6B", shared_components)
    (shared_components / "Qwen3-Embedding-0.6B" / "model-00002-of-00002.safetensors").unlink()
    assert not is_present("Qwen3-Embedding-0.6B", shared_components)


def test_a_diffusers_pipeline_is_present_if_all_components_are(hubs: Hubs, tmp_path: Path) -> None:
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


def test_every_catalog_entry_is_found_with_the_models_it_needs() -> None:
    assert len({model.name for model in CATALOG}) == len(CATALOG)
    for model in CATALOG:
        assert find_model(model.name) is model
        assert {*model.needs, model.name} == {part.name for part in with_needs([model.name])}
