"""Optimizers over one flat parameter: the results, the saved state and the host reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from acestep.training.data import TrainingStep
from acestep.training.distributed.placement import make_fabric
from acestep.training.flow_matching import FlowMatching
from acestep.training.loop import Progress, StepReport, train
from acestep.training.optim.optimizers import OPTIMIZERS, make_optimizer
from acestep.training.state.random_state import RandomState
from acestep.training.state.tensor_tree import read_state, write_state
from tests.operations import Operations
from tests.training.songs import ToyDecoder
from tests.training.test_loop import DRAW, collate, make_samples

SHAPES = ((6, 5), (5, 3), (7,), ())  # no multiples of the alignment
RATES = {"adamw": 0.05, "prodigy": 1.0}
FLAT = [entry.name for entry in OPTIMIZERS if entry.flat]
CPU = torch.device("cpu")


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    """The second one starts at zero, as half of the matrices of an adapter do."""
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator, dtype=dtype) for shape in SHAPES]
    return [nn.Parameter(torch.zeros_like(value) if i == 1 else value) for i, value in enumerate(values)]


def separate(name: str, trained: list[nn.Parameter]) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = OPTIMIZERS[name].load()(trained, RATES[name], 0.01)
    return optimizer


def flat(name: str, trained: list[nn.Parameter]) -> torch.optim.Optimizer:
    return make_optimizer(name, trained, lr=RATES[name], weight_decay=0.01)


def step(optimizer: torch.optim.Optimizer, trained: list[nn.Parameter], count: int) -> None:
    for number in range(count):
        optimizer.param_groups[0]["lr"] *= 1 - 1e-4 * number  # as a schedule does
        sum(((p - 1) ** 2).sum() for p in trained).backward()  # type: ignore[union-attr]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def largest_difference(one: list[nn.Parameter], other: list[nn.Parameter]) -> float:
    return max(((a - b).abs().max() / a.abs().max()).item() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("name", "allowed"), [("adamw", 1e-15), ("prodigy", 1e-11)])
def test_one_flat_parameter_is_trained_like_separate_ones(name: str, allowed: float) -> None:
    together, apart = parameters(), parameters()
    step(flat(name, together), together, 100)
    step(separate(name, apart), apart, 100)
    assert largest_difference(apart, together) <= allowed
    assert largest_difference(apart, parameters()[:1] + apart[1:]) > 0.1  # the weights have moved


@pytest.mark.parametrize("name", FLAT)
def test_the_state_is_that_of_separate_parameters_and_each_resumes_from_the_other(name: str, tmp_path: Path) -> None:
    together, apart = parameters(), parameters()
    for number, (make, trained, make_other) in enumerate(((flat, together, separate), (separate, apart, flat))):
        optimizer, folder = make(name, trained), tmp_path / str(number)
        step(optimizer, trained, 3)
        folder.mkdir()
        write_state(folder, {"optimizer": optimizer.state_dict()})
        values = [nn.Parameter(parameter.detach().clone()) for parameter in trained]
        other = make_other(name, values)
        other.load_state_dict(read_state(folder)["optimizer"])
        assert layout(other.state_dict()) == layout(optimizer.state_dict())
        step(other, values, 3)
        step(optimizer, trained, 3)
        assert largest_difference(trained, values) < 1e-11


def layout(tree: Any) -> Any:
    """Keys, and shapes and dtypes of tensors, of a state."""
    if isinstance(tree, dict):
        return {key: layout(value) for key, value in tree.items()}
    return (list(tree.shape), tree.dtype) if isinstance(tree, Tensor) else type(tree)


def test_a_state_of_other_shapes_is_rejected() -> None:
    trained = parameters()
    optimizer = flat("adamw", trained)
    step(optimizer, trained, 1)
    state = optimizer.state_dict()
    state["state"][0]["exp_avg"] = torch.zeros(1, 5)
    with pytest.raises(ValueError, match=r"exp_avg has shape \[1, 5\], expected \[6, 5\]"):
        flat("adamw", parameters()).load_state_dict(state)
    del state["state"][2]
    with pytest.raises(LookupError):
        flat("adamw", parameters()).load_state_dict(state)


def test_a_parameter_without_gradient_is_updated_with_a_gradient_of_zero() -> None:
    trained, other = parameters(), parameters()
    optimizer, expected = flat("adamw", trained), flat("adamw", other)
    trained[0].grad = torch.ones_like(trained[0])
    other[0].grad, other[2].grad = torch.ones_like(other[0]), torch.zeros_like(other[2])
    optimizer.step()
    expected.step()
    assert largest_difference(other, trained) == 0


class _Tolist(TorchFunctionMode):
    """Counts ``Tensor.tolist``, which on the CPU runs no operator."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is Tensor.tolist
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("name", "reads"), [("adamw", 1), ("adamw8bit", 1), ("adafactor", 1), ("prodigy", 3)])
def test_a_step_reads_from_the_device_as_often_as_its_optimizer_needs(name: str, reads: int) -> None:
    fabric, decoder = make_fabric(CPU, torch.float32), ToyDecoder()
    plain = make_optimizer(name, decoder.parameters(), lr=0.1, weight_decay=0.01)
    model, optimizer = fabric.setup(FlowMatching(decoder, torch.zeros(1, 1, 64)), plain)
    batch = collate([DRAW(make_samples([(6, 2)])[0], 0)])
    found = []

    class Counter:
        """Adds the reads of each step to ``found``."""

        def after_step(self, report: StepReport) -> bool:
            scalars = [operator for operator, *_ in operations.calls if "_local_scalar_dense" in str(operator)]
            found.append(len(scalars) + tolist.count)
            operations.calls.clear()
            tolist.count = 0
            return False

    with Operations() as operations, _Tolist() as tolist:
        train(
            fabric=fabric,
            model=model,
            optimizer=optimizer,
            lr_at=lambda _: 0.1,
            steps=[TrainingStep(0, [[0]], ends_epoch=False)] * 3,
            make_batch=lambda *_: batch,
            progress=Progress(),
            random=RandomState(CPU),
            max_grad_norm=1.0,
            max_not_finite=1,
            callback=Counter(),
            stop_if_cancelled=lambda: None,
        )
    assert found[1:] == [reads, reads]  # the first one creates the state
