"""Runs with compiled blocks: the compiled code is used only if it computes the gradients of eager execution."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.backends.debugging import aot_eager

from acestep.core.events import LogMessage
from acestep.models import compiled
from acestep.training.configs import TrainJob
from acestep.training.state.run_folder import RunFolder
from acestep.training.state.tensor_tree import read_values
from tests.training.runs import make_job, of_kind, run, tensors_for

SETTINGS = {"max_epochs": 1, "gradient_accumulation_steps": 1, "lora__dropout": 0.0, "validation_percent": 0}
MakeJob = Callable[..., TrainJob]


@pytest.fixture
def job(tmp_path: Path, tiny_checkpoint: Path) -> MakeJob:
    tensors = tensors_for(tmp_path / "tensors", tiny_checkpoint, [(24, 5), (30, 4), (17, 7)])  # the last one is short
    return lambda name, **settings: make_job(tensors, tiny_checkpoint, tmp_path / name, **{**SETTINGS, **settings})


@pytest.fixture(autouse=True)
def no_compiled_code_of_other_tests() -> None:
    torch._dynamo.reset()


def weights(job: TrainJob) -> dict[str, torch.Tensor]:
    """The adapter at the end of the run."""
    state = load_file(RunFolder(job.out).saved()[-1] / "state" / "state.safetensors")
    return {key: value for key, value in state.items() if key.startswith("adapter.")}


def warnings_of(events: list[Any]) -> list[str]:
    return [event.message for event in of_kind(events, LogMessage) if event.warning]


def was_compiled(job: TrainJob) -> bool:
    return bool(read_values(RunFolder(job.out).saved()[-1] / "state")["compiled"])


def test_compiled_blocks_train_like_eager_ones_and_the_change_is_reported_on_resume(
    job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def backend(graph: Any, inputs: Any) -> Any:
        calls.append(graph)
        return aot_eager(graph, inputs)

    monkeypatch.setattr(compiled, "BACKEND", backend)
    one, other = job("compiled", compile="on", gradient_checkpointing="on"), job("eager", compile="auto")
    run(one)
    run(other)
    assert calls
    assert (was_compiled(one), was_compiled(other)) == (True, False)
    assert weights(one).keys() == weights(other).keys()
    for name, value in weights(one).items():
        torch.testing.assert_close(value, weights(other)[name], rtol=1e-3, atol=1e-4)
    one.resume, one.training.max_epochs, one.training.compile = "auto", 2, "off"
    _, events = run(one)
    assert any("does not resume bit-exactly" in message for message in warnings_of(events))


def wrong_gradients(graph: Any, inputs: Any) -> Any:
    """A backend whose backward pass is 4 % off."""

    def backward(module: Any, _: Any) -> Any:
        return lambda *arguments: [None if g is None else 1.04 * g for g in module(*arguments)]

    return aot_autograd(fw_compiler=lambda module, _: module, bw_compiler=backward)(graph, inputs)


def broken(graph: Any, inputs: Any) -> Any:
    raise OSError("there is no compiler")


def without_backward(graph: Any, inputs: Any) -> Any:
    def backward(module: Any, _: Any) -> Any:
        raise OSError("there is no backward pass")

    return aot_autograd(fw_compiler=lambda module, _: module, bw_compiler=backward)(graph, inputs)


@pytest.mark.parametrize(
    ("backend", "reason"),
    [(wrong_gradients, "its gradients are"), (broken, "no compiler"), (without_backward, "no backward pass")],
)
def test_a_compiler_that_fails_or_computes_other_gradients_is_not_used(
    backend: Any, reason: str, job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "BACKEND", backend)
    one, other = job("compiled", compile="on"), job("eager", compile="off")
    _, events = run(one)
    run(other)
    assert any(m.startswith("The model is not compiled") and reason in m for m in warnings_of(events))
    assert not was_compiled(one)
    assert all(torch.equal(value, weights(other)[name]) for name, value in weights(one).items())
