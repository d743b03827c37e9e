"""The moving average of an adapter's weights: smoother than the weights themselves, which jump with each step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class ExponentialMovingAverage:
    """Follows ``parameters``. All of it is part of the training state.

    After n steps the share of the old average is at most (1 + n) / (10 + n), so that the untrained start is soon
    forgotten (TensorFlow's ExponentialMovingAverage with ``num_updates``).
    """

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self._parameters, self._decay = parameters, decay
        self.restart()

    def restart(self) -> None:
        """Begin with the weights as they are now."""
        self.num_steps = 0
        self._average = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self, *_: Any) -> None:
        """Take in the weights after a step; fits ``Optimizer.register_step_post_hook``."""
        share = min(self._decay, (1 + self.num_steps) / (10 + self.num_steps))
        for average, parameter in zip(self._average, self._parameters, strict=True):
            average.lerp_(parameter, 1 - share)
        self.num_steps += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the parameters hold the average; afterwards they are what they were, bit for bit."""
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
        """Undo ``state``."""
        self.num_steps = state["num_steps"]
        for average, value in zip(self._average, state["average"], strict=True):
            average.copy_(value)
