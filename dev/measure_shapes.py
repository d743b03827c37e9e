"""One forward and backward pass of a decoder at full size whose values are never computed, only shapes and dtypes.

The tensors are PyTorch's fake tensors on the CPU: the same operations run as on real ones, so the same tensors live at
each moment, and 60 GB of them fit on any computer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel

from acestep.adapters.files import inject
from acestep.models import dit
from acestep.models.dit import AceStepDiT
from acestep.models.weight_shapes import encoder_sizes
from acestep.training.flow_matching import FlowMatching
from acestep.training.memory.spec import MemorySpec
from dev.caching_allocator import AllocatedBytes
from tests.training.memory.measured_runs import DECODER_KEYS, DTYPES, noise_batch


@dataclass(frozen=True, slots=True)
class Measured:
    """Bytes: the most that live tensors take, without the optimizer, what a GPU's allocator reserves for them, and what
    the forward pass keeps for the backward pass."""

    peak: int
    reserved: int
    kept: int


def measure_shapes(spec: MemorySpec, scores: str = "") -> Measured:
    """Measure one micro-batch of ``spec``. ``scores`` is where attention has no fused kernel, as in ``Passes``."""
    with torch.device("meta"):
        decoder = AceStepDiT(**{key: spec.config[key] for key in DECODER_KEYS}).eval()
    decoder.to(DTYPES[spec.compute]).requires_grad_(False)
    if spec.checkpoint_every:
        decoder.enable_gradient_checkpointing()
        decoder.checkpoint_every, decoder.offload_inputs = spec.checkpoint_every, spec.offload
    adapter = inject(decoder, spec.kind, spec.adapter, spec.attention_type, spec.train_mlp, seed=1)
    autocast = nullcontext() if spec.compute == "fp32" else torch.autocast("cpu", DTYPES[spec.compute])
    with FakeTensorMode(allow_non_fake_inputs=True):
        _replace_weights([adapter.network, decoder])
        model = FlowMatching(adapter.network, torch.zeros(1, 1, encoder_sizes(spec.config)["hidden_size"])).train()
        batch = noise_batch(spec)
        with _kernels(scores), _away(), AllocatedBytes() as live:
            live.add([*model.parameters(), *model.buffers(), *(part for part in batch if part is not None)])
            loaded = live.now
            with autocast:
                loss = model(batch).mean()
            kept = live.now - loaded
            loss.backward()
            return Measured(live.peak, live.allocator.reserved, kept)


def _replace_weights(networks: list[nn.Module]) -> None:
    """Fake tensors on the CPU instead of the tensors on the meta device."""
    done: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}  # both, so that no id is used again
    for module in (module for network in networks for module in network.modules()):
        for name, weight in list(module.named_parameters(recurse=False)):
            if weight.is_meta and id(weight) not in done:
                empty = torch.empty(weight.shape, dtype=weight.dtype, device="cpu")
                done[id(weight)] = weight, nn.Parameter(empty, requires_grad=weight.requires_grad)
            if weight.is_meta:
                setattr(module, name, done[id(weight)][1])
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_meta:
                setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu"))


def _kernels(scores: str) -> AbstractContextManager[Any]:
    if scores == "all":
        return sdpa_kernel(SDPBackend.MATH)
    return _math_where_masked() if scores == "masked" else nullcontext()


class _Away(torch.autograd.graph.saved_tensors_hooks):
    """In place of ``SaveOnCpu``: the tensors leave the memory that is counted."""

    def __init__(self) -> None:
        super().__init__(lambda tensor: (tensor.shape, tensor.stride(), tensor.dtype), _back)


def _back(saved: tuple[Any, Any, torch.dtype]) -> torch.Tensor:
    return torch.empty_strided(saved[0], saved[1], dtype=saved[2])


def _away() -> AbstractContextManager[Any]:
    return mock.patch.object(dit, "SaveOnCpu", _Away)


@contextmanager
def _math_where_masked() -> Iterator[None]:
    """Attention with a mask without a fused kernel."""
    fused = F.scaled_dot_product_attention

    def attend(*inputs: Any, **options: Any) -> Any:
        with nullcontext() if options.get("attn_mask") is None else sdpa_kernel(SDPBackend.MATH):
            return fused(*inputs, **options)

    with mock.patch.object(F, "scaled_dot_product_attention", attend):
        yield
