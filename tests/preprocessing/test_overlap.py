"""Samples are loaded and written in the background: same files, bounded memory, prompt cancellation."""

from __future__ import annotations

import threading
import weakref
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch

from acestep.core.errors import JobCancelled
from acestep.core.events import ItemFailed, Progressed, Saved
from acestep.dataset.scan import scan_folder
from acestep.models import load
from acestep.models.checkpoint import find_checkpoint
from acestep.preprocessing.overlap import Loader, Writer
from acestep.preprocessing.sample_sources import apply_overrides, iter_sample_sources
from acestep.preprocessing.stages import ConditionStage, FeatureStage, LoadOptions, ModelMemory, load_sample_audio
from acestep.tensors.manifest import read_manifest
from acestep.tensors.record import encode_record
from tests.bad_files import with_nan
from tests.preprocessing.conftest import Listener, Preprocessor, label, tensors


class Loaded:
    """Something large."""


@pytest.mark.parametrize("ahead", [0, 2])
def test_at_most_the_samples_ahead_and_the_current_one_are_in_memory(ahead: int) -> None:
    alive: weakref.WeakSet[Loaded] = weakref.WeakSet()
    most = 0

    def loaded(_number: int) -> Loaded:
        nonlocal most
        made = Loaded()
        alive.add(made)
        most = max(most, len(alive))
        return made

    with Loader(range(8), loaded, ahead=ahead) as loader:
        numbers = []
        for number, future in loader:
            future.result()
            del future
            numbers.append(number)
    assert numbers == list(range(8))
    assert 1 <= most <= ahead + 1


def test_loading_uses_one_thread_and_leaves_the_number_of_others() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with Loader(range(3), lambda _: torch.get_num_threads(), ahead=2) as loader:
            assert [future.result() for _, future in loader] == [1, 1, 1]
        later: list[int] = []
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert (torch.get_num_threads(), later) == (2, [2])
    finally:
        torch.set_num_threads(before)


def test_after_an_error_the_last_sample_is_still_written_and_reported() -> None:
    written: list[int] = []
    release = threading.Event()

    def write() -> None:
        release.wait(10)
        written.append(1)

    def report(sample: str, future: Future[None]) -> None:
        written.append(len(sample))

    def cancelled() -> None:
        with Writer(report) as writer:
            writer.submit("one", write)
            writer.report_finished()
            assert written == []
            release.set()
            raise JobCancelled("stopped by the user")

    with pytest.raises(JobCancelled):
        cancelled()
    assert written == [1, 3]


def test_the_files_equal_those_of_a_sequential_loop(
    standard: tuple[Path, Any, Listener], audio_dir: Path, tiny_checkpoint: Path
) -> None:
    config, checkpoint = Preprocessor(audio_dir, tiny_checkpoint).job(standard[0]), find_checkpoint(tiny_checkpoint)
    options, memory = LoadOptions(checkpoint, "cpu", torch.float32), ModelMemory()
    feature_stage, condition_stage = FeatureStage(options, memory), ConditionStage(options, memory)
    dataset = apply_overrides(scan_folder(audio_dir).dataset, config)
    files = {}
    for sample in iter_sample_sources(dataset, audio_dir, config, checkpoint, "float32", lambda *_: None):
        audio = load_sample_audio(sample, "none", 240).samples
        files[sample.file] = encode_record(condition_stage(sample, feature_stage(sample, audio, lambda: None)))
    assert tensors(standard[0]) == files


def test_a_sample_that_fails_between_others_is_reported_in_order(
    preprocessor: Preprocessor, standard: tuple[Path, Any, Listener], tmp_path: Path
) -> None:
    label(with_nan(preprocessor.audio_dir / "second.wav"), "a click")
    listener = Listener()
    result = preprocessor.run(tmp_path / "out", listener)
    kinds = [type(event) for event in listener.events if isinstance(event, Saved | ItemFailed | Progressed)]
    assert kinds == [Saved, Progressed, ItemFailed, Progressed, Saved, Progressed]
    assert [item["item"] for item in result["failed"]] == ["second.wav"]
    assert tensors(tmp_path / "out") == tensors(standard[0])
    assert [path.name for path in read_manifest(tmp_path / "out").paths] == [
        path.name for path in read_manifest(standard[0]).paths
    ]


def test_a_stop_takes_effect_within_the_tile_and_discards_the_sample(
    preprocessor: Preprocessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener, tiles, convolutions = Listener(), [], []
    load_vae = load.load_vae

    def first_layer(*_: Any) -> None:
        tiles.append(1)
        listener.stopped = True  # the request arrives while the tile is encoded

    def loading(*arguments: Any, **options: Any) -> Any:
        vae = load_vae(*arguments, **options)
        vae.encoder.conv1.register_forward_hook(first_layer)
        vae.encoder.conv2.register_forward_hook(lambda *_: convolutions.append(1))
        return vae

    monkeypatch.setattr(load, "load_vae", loading)
    with pytest.raises(JobCancelled, match="0 of 2 samples are encoded"):
        preprocessor.run(tmp_path / "out", listener)
    assert (len(tiles), len(convolutions)) == (1, 0)
    assert tensors(tmp_path / "out") == {}
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("load", "write"))]
