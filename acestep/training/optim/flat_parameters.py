"""One optimizer update for all parameters, which lie in one flat buffer.

An optimizer over hundreds of small parameters spends its time on starting kernels and, as Prodigy does, on reading
scalars from the device, twice per parameter. Over one flat parameter it does both once. That gives the same result
where an update is element-wise or depends on sums over all parameters, but not where it depends on the shape of each
parameter (Adafactor) or on blocks within it (8-bit AdamW).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from acestep.training.optim.optimizer_memory import padded

_VECTORS = ("s", "p0")  # state that Prodigy stores as a vector, whatever the shape of the parameter
_IMPLEMENTATION = ("foreach", "fused")  # options of this process, which are not saved


class FlatOptimizer(Optimizer):
    """Updates ``parameters`` as one flat parameter.

    From the outside it is an optimizer of separate parameters, whose ``state_dict`` has the layout of theirs. Each
    parameter becomes a view of the buffer, so its ``data`` must not be replaced afterwards; its ``grad`` is separate
    and is copied into a flat gradient for the step. A parameter without gradient is updated with a gradient of zero.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], make: Callable[[list[nn.Parameter]], Optimizer]) -> None:
        """``make`` gives the optimizer of the flat parameter. All ``parameters`` have the same dtype and device."""
        self._sizes = [padded(parameter.numel()) for parameter in parameters]
        buffer = parameters[0].detach().new_zeros(sum(self._sizes))
        for parameter, view in zip(parameters, self._views(buffer, [p.shape for p in parameters]), strict=True):
            parameter.data = view.copy_(parameter.detach())
        self._flat = nn.Parameter(buffer)
        self._inner = make([self._flat])
        super().__init__(parameters, _options(self._inner.param_groups[0]))

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update with the gradients of the parameters."""
        loss = None if closure is None else closure()
        group, inner = self.param_groups[0], self._inner.param_groups[0]
        inner.update(_options(group))
        self._flat.grad = self._flat_gradient()
        self._inner.step()
        self._flat.grad = None
        group.update(_options(inner))
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The state of an optimizer of separate parameters."""
        state, found = self._inner.state.get(self._flat, {}), super().state_dict()
        (group,) = found["param_groups"]
        group.update((name, None) for name in _IMPLEMENTATION if name in group)
        return {**found, "state": self._split(state) if state else {}}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` gave, here or of separate parameters. Raises ValueError, LookupError."""
        (saved,) = state_dict["param_groups"]
        group = {**saved, **{name: self.defaults[name] for name in _IMPLEMENTATION if name in self.defaults}}
        super().load_state_dict({"state": {}, "param_groups": [group]})
        joined = {0: self._joined(state_dict["state"])} if state_dict["state"] else {}
        self._inner.load_state_dict({"state": joined, "param_groups": [{**group, "params": [0]}]})

    @property
    def _parameters(self) -> list[nn.Parameter]:
        parameters: list[nn.Parameter] = self.param_groups[0]["params"]
        return parameters

    def _views(self, buffer: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        """The part of each parameter in a flat buffer, in its shape from ``shapes``."""
        parts = zip(torch.split(buffer, self._sizes), shapes, strict=True)
        return [part[: torch.Size(shape).numel()].view(torch.Size(shape)) for part, shape in parts]

    def _flat_gradient(self) -> Tensor:
        """The gradients of all parameters, with zeros for the padding and for those that have none."""
        flat = torch.zeros_like(self._flat, requires_grad=False)
        views = self._views(flat, [parameter.shape for parameter in self._parameters])
        pairs = [(v, p.grad) for v, p in zip(views, self._parameters, strict=True) if p.grad is not None]
        torch._foreach_copy_([view for view, _ in pairs], [gradient for _, gradient in pairs])
        return flat

    def _split(self, state: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
        """The state of each parameter, by its index, from that of the flat parameter."""
        entries: dict[int, dict[str, Any]] = {index: {} for index in range(len(self._parameters))}
        for name, value in state.items():
            if not isinstance(value, Tensor) or value.dim() == 0:
                parts: list[Any] = [value] * len(entries)
            else:
                parts = self._views(value, [self._shape(name, parameter) for parameter in self._parameters])
            if name == "p0":  # Prodigy stores a single zero for a parameter that starts at zero
                parts = [part if part.any() else part.new_zeros(()) for part in parts]
            for entry, part in zip(entries.values(), parts, strict=True):
                entry[name] = part
        return entries

    def _joined(self, entries: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
        """The state of the flat parameter from that of each parameter."""
        found: dict[str, Any] = {}
        for name, first in entries[0].items():
            values = [entries[index][name] for index in range(len(self._parameters))]
            found[name] = first
            if any(isinstance(value, Tensor) and value.dim() for value in values):
                found[name] = first.new_zeros(sum(self._sizes))
                views = self._views(found[name], [self._shape(name, parameter) for parameter in self._parameters])
                for view, value in zip(views, values, strict=True):
                    if value.dim() and value.shape != view.shape:  # copy_ would broadcast it
                        raise ValueError(f"{name} has shape {list(value.shape)}, expected {list(view.shape)}")
                    view.copy_(value)
        return found

    def _shape(self, name: str, parameter: nn.Parameter) -> Sequence[int]:
        return (parameter.numel(),) if name in _VECTORS else parameter.shape


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    """What a parameter group holds besides its parameters."""
    return {name: value for name, value in group.items() if name != "params"}
