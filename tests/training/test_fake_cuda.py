"""A training step of each adapter kind without a GPU: the forward pass on fake CUDA tensors, the backward pass on meta.

Fake tensors have a device and a shape but no data, so a read of a value by the host, which would wait for the GPU,
raises an error. Their backward pass needs a GPU; that of meta tensors does not, but autocast does not know them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from acestep.adapters.base import Adapter
from acestep.adapters.configs import ADAPTERS
from acestep.adapters.files import inject
from acestep.models.checkpoint import find_checkpoint
from acestep.models.load import empty_dit
from acestep.models.quantize import QUANTIZED, quantize
from acestep.training.flow_matching import Batch, FlowMatching
from tests.operations import Operations

HOST_READS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default, torch.ops.aten.equal.default}
MATRIX_PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default}
KINDS = [entry.name for entry in ADAPTERS]
CASES: list[tuple[str, dict[str, Any], str, torch.dtype]] = [  # kind, settings of the adapter, base precision, dtype
    *((kind, {}, "auto", dtype) for kind in KINDS for dtype in (torch.bfloat16, torch.float16)),
    *((kind, {}, "nf4", torch.bfloat16) for kind in KINDS),
    ("lora", {}, "int8", torch.bfloat16),
    ("lora", {"init": "pissa", "r": 4}, "auto", torch.bfloat16),
    ("lokr", {"weight_decompose": True}, "auto", torch.bfloat16),
]


def replace_tensors(module: nn.Module, convert: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """``nn.Module._apply`` without swapping the content of parameters, which fake tensors do not support."""
    for child in module.children():
        replace_tensors(child, convert)
    for name, parameter in module._parameters.items():
        if parameter is not None and (converted := convert(parameter.detach())) is not parameter:
            module._parameters[name] = nn.Parameter(converted, parameter.requires_grad)
    for name, buffer in module._buffers.items():
        module._buffers[name] = None if buffer is None else convert(buffer)
    return module


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """New tensors are fake and may be on CUDA, and autocast works there as on a GPU with bf16."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    monkeypatch.setattr(nn.Module, "_apply", replace_tensors)
    with FakeTensorMode():
        yield


def make(
    kind: str,
    checkpoint: Path,
    device: str,
    settings: dict[str, Any],
    *,
    base: str = "auto",
    dtype: torch.dtype = torch.float32,
) -> tuple[Adapter, FlowMatching]:
    """An adapter of this kind on all layers of a decoder in ``dtype``, and the model that is trained."""
    decoder = empty_dit(find_checkpoint(checkpoint))
    weights = {
        name: torch.empty_like(value, device=device, dtype=dtype) for name, value in decoder.state_dict().items()
    }
    decoder.load_state_dict(weights, assign=True)
    decoder.requires_grad_(False)
    if base in QUANTIZED:
        quantize(decoder, base)
    decoder.enable_gradient_checkpointing()
    adapter = inject(decoder, kind, ADAPTERS[kind].config(**settings), "both", True, seed=1)
    width = decoder.config.encoder_hidden_size or decoder.config.hidden_size
    model = FlowMatching(adapter.network, torch.zeros(1, 1, width, device=device))
    return adapter, model.train()


def batch_on(device: str, model: FlowMatching) -> Batch:
    """Two padded samples."""
    frames, tokens, width = 20, 9, model.null_condition.shape[-1]
    return Batch(
        latents=torch.zeros(2, frames, 64, device=device),
        noise=torch.zeros(2, frames, 64, device=device),
        context=torch.zeros(2, frames, 128, device=device),
        condition=torch.zeros(2, tokens, width, device=device),
        t=torch.zeros(2, device=device),
        dropped=torch.zeros(2, dtype=torch.bool, device=device),
        weight=torch.zeros(2, device=device),
        frame_mask=torch.ones(2, frames, dtype=torch.bool, device=device),
        token_mask=torch.ones(2, tokens, dtype=torch.bool, device=device),
    )


def everything(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@pytest.mark.parametrize(("kind", "settings", "base", "dtype"), CASES)
def test_a_forward_pass_stays_on_the_gpu_and_the_host_reads_nothing(
    kind: str, settings: dict[str, Any], base: str, dtype: torch.dtype, tiny_checkpoint: Path, fake_cuda: None
) -> None:
    adapter, model = make(kind, tiny_checkpoint, "cuda", settings, base=base, dtype=dtype)
    assert {tensor.device.type for tensor in everything(model).values()} == {"cuda"}
    assert {parameter.dtype for parameter in adapter.parameters()} == {torch.float32}
    batch = batch_on("cuda", model)
    with Operations() as operations, torch.autocast("cuda", dtype=dtype):
        losses = model(batch)
    assert (losses.shape, losses.dtype, losses.device.type) == ((2,), torch.float32, "cuda")
    assert losses.requires_grad
    assert not operations.on_other_devices("cuda")
    assert not operations.in_float64()
    assert not HOST_READS & operations.started
    products = [made[0].dtype for operator, _, made in operations.calls if operator in MATRIX_PRODUCTS]
    assert products.count(dtype) > len(products) / 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_backward_pass_gives_every_adapter_weight_a_gradient(kind: str, tiny_checkpoint: Path) -> None:
    adapter, model = make(kind, tiny_checkpoint, "meta", {})
    model(batch_on("meta", model)).sum().backward()
    for parameter in adapter.parameters():
        assert parameter.grad is not None
        assert parameter.grad.shape == parameter.shape
        assert parameter.grad.device.type == "meta"
    trained = {id(parameter) for parameter in adapter.parameters()}
    assert all(parameter.grad is None for parameter in model.parameters() if id(parameter) not in trained)


@pytest.mark.parametrize("read", [Tensor.item, Tensor.nonzero])
def test_a_read_by_the_host_would_be_noticed(read: Callable[[Tensor], Any], fake_cuda: None) -> None:
    value = torch.zeros(3, device="cuda")[0]
    with Operations() as operations, pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
        read(value)
    assert HOST_READS & operations.started
