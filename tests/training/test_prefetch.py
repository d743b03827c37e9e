"""Where the samples are, and who draws the batches, changes nothing but speed."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from acestep.core.errors import TensorError
from acestep.core.events import LogMessage
from acestep.tensors.tensor_file import TensorFile, read_facts
from acestep.training import session as session_module
from acestep.training.data import ExampleSampler, TrainingSample, collate
from acestep.training.flow_matching import Batch
from acestep.training.memory.spec import MemorySpec
from acestep.training.prefetch import hold_on_device, prefetched
from tests.training.runs import make_job, of_kind, run, tensors_for
from tests.training.songs import make_samples

DRAW = ExampleSampler(seed=1, max_frames=6, mu=-0.4, sigma=1.0, cfg_dropout=0.1, weight=lambda t: 1.0)
SAMPLES = make_samples([(8, 3), (6, 2), (9, 4)])
UPCOMING = [([0], 0), ([1, 2], 0), ([2], 1), ([0, 1], 1)]


def draw(samples: list[int], epoch: int) -> Batch:
    return collate([DRAW(SAMPLES[i], epoch) for i in samples])


def equal(one: Batch, other: Batch) -> bool:
    pairs = zip(one, other, strict=True)
    return all(a is b is None or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)


def out_of_memory(*_: object) -> None:
    raise torch.OutOfMemoryError("full")


def prefetching_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_prefetched_batches_are_the_same_also_when_a_step_is_repeated_or_the_end_is_passed() -> None:
    drawn_in = []

    def noted(samples: list[int], epoch: int) -> Batch:
        drawn_in.append((samples, threading.current_thread() is threading.main_thread()))
        return draw(samples, epoch)

    with prefetched(noted, UPCOMING) as take:
        for request in (UPCOMING[0], UPCOMING[1], ([1], 0), *UPCOMING[2:], ([0], 2)):
            assert equal(take(*request), draw(*request))
    assert [samples for samples, in_main in drawn_in if in_main] == [[1], [0]]
    assert not prefetching_threads()


def test_an_error_of_the_thread_is_raised_for_its_batch_and_the_thread_ends() -> None:
    def failing(samples: list[int], epoch: int) -> Batch:
        if epoch:
            raise TensorError("damaged")
        return draw(samples, epoch)

    with prefetched(failing, UPCOMING) as take:
        take(*UPCOMING[0])
        take(*UPCOMING[1])
        with pytest.raises(TensorError, match="damaged"):
            take(*UPCOMING[2])
    assert not prefetching_threads()


def test_an_interruption_ends_the_thread() -> None:
    def interrupted() -> None:
        with prefetched(draw, UPCOMING) as take:
            take(*UPCOMING[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not prefetching_threads()


def test_samples_on_the_device_share_silence_and_give_the_same_examples(tmp_path: Path, tiny_checkpoint: Path) -> None:
    folder, silence = tensors_for(tmp_path, tiny_checkpoint), torch.randn(40, 128)
    files = [TensorFile(path, read_facts(path)) for path in sorted(folder.glob("*.pt"))]
    samples = [TrainingSample(file.path.name, "", file.with_silence(silence)) for file in files[:3]]
    samples.append(TrainingSample(files[3].path.name, "", files[3]))
    held = hold_on_device(samples, torch.device("cpu"), lambda *_: None)
    for one, other in zip(samples, held, strict=True):
        assert equal(collate([DRAW(one, 0)]), collate([DRAW(other, 0)]))
    assert len({sample.record.crop().context.data_ptr() for sample in held}) == 2


@pytest.mark.parametrize("place", ["thread", "device", "full device"])
def test_a_run_is_the_same_wherever_its_batches_are_drawn(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    tensors = tensors_for(tmp_path / "tensors", tiny_checkpoint)
    expected, _ = run(make_job(tensors, tiny_checkpoint, tmp_path / "a", max_epochs=2, batch_size=2))
    if place != "device":
        monkeypatch.setattr(session_module, "prefetching_pays", lambda _: True)
    if place != "thread":
        monkeypatch.setattr(MemorySpec, "has_own_memory", True)
    if place == "full device":
        monkeypatch.setattr(session_module, "hold_on_device", out_of_memory)
    found, events = run(make_job(tensors, tiny_checkpoint, tmp_path / "b", max_epochs=2, batch_size=2))
    assert {**found, "adapter": ""} == {**expected, "adapter": ""}
    one, other = (load_file(tmp_path / out / "final" / "adapter" / "adapter_model.safetensors") for out in "ab")
    assert all(torch.equal(other[name], value) for name, value in one.items())
    messages = [event.message for event in of_kind(events, LogMessage)]
    assert any(message.startswith("dataset in the memory of the device") for message in messages) == (place != "thread")
    assert any("does not fit on cpu" in message for message in messages) == (place == "full device")
