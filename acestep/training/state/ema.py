"""Exponential moving average (EMA) of the adapter weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class ExponentialMovingAverage:
    """Averages ``parameters`` after every optimizer step. It is part of the training state.

    After n steps the decay is at most (1 + n) / (10 + n), so that the initial weights lose their influence early, as
    in TensorFlow's ExponentialMovingAverage with ``num_updates``.
    """

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self._parameters, self._decay = parameters, decay
        self.restart()

    def restart(self) -> None:
        """Restart from the current weights."""
        self.num_steps = 0
        self._average = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self, *_: Any) -> None:
        """Add the weights after a step; a hook for ``Optimizer.register_step_post_hook``."""
        share = min(self._decay, (1 + self.num_steps) / (10 + self.num_steps))
        for average, parameter in zip(self._average, self._parameters, strict=True):
            average.lerp_(parameter, 1 - share)
        self.num_steps += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the parameters hold the average; afterwards their exact values are restored."""
        before = [parameter.detach().clone() for parameter in self._parameters]
        self._put(self._average)
        try:
            yield
        finally:
            self._put(before)

    @torch.no_grad()
    def _put(self, values: list[torch.Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)

    def state(self) -> dict[str, Any]:
        return {"num_steps": self.num_steps, "average": self._average}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what ``state`` gave."""
        self.num_steps = state["num_steps"]
        for average, value in zip(self._average, state["average"], strict=True):
            if value.shape != average.shape:  # copy_ would broadcast it
                raise ValueError(f"an average has shape {list(value.shape)}, expected {list(average.shape)}")
            average.copy_(value)
