"""Quantize the base model to int8 or nf4 to reduce memory.

bitsandbytes does the quantization, but its layers are not used. They compute different outputs in training and
evaluation mode (the 8-bit layer also quantizes activations), fix the compute dtype at the first input, and on CPUs
with AVX512-BF16 the 4-bit layer repacks its weights at the first evaluation, which lowers precision, disables
gradients and is not undone when an adapter is removed (bitsandbytes 0.50.2, nn/modules.py).
"""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor, nn

from acestep.core.errors import ConfigError, MissingPackage

QUANTIZED = ("int8", "nf4")
"""Precisions of the base model that need ``quantize``; the others are dtypes of ``load_dit``."""

_BLOCK = 64  # values per nf4 scale, as in QLoRA (https://arxiv.org/abs/2305.14314)


def quantize(decoder: nn.Module, precision: str, *, device: torch.device | str | None = None) -> None:
    """Quantize the linear layers of the transformer blocks in place and move the decoder to ``device``.

    Layers are moved and quantized one at a time, so the device never holds the unquantized decoder. Layers outside
    the blocks (timestep and condition embedders, input and output projections) are small and keep their dtype.
    Call this before adding an adapter.

    Args:
        precision: ``int8`` or ``nf4``.
        device: target device; the device of the decoder by default.

    Raises:
        ConfigError: unknown precision.
        MissingPackage: bitsandbytes is not installed, or does not support ``device``.
    """
    if precision not in QUANTIZED:
        raise ConfigError([f"unknown quantization {precision!r}"], hint=f"Known: {', '.join(QUANTIZED)}.")
    device = torch.device(next(decoder.parameters()).device if device is None else device)
    _require_kernels(precision, device)
    for name, layer in list(decoder.get_submodule("layers").named_modules()):
        if type(layer) is nn.Linear:
            parent, _, child = name.rpartition(".")
            setattr(decoder.get_submodule(f"layers.{parent}"), child, QuantizedLinear(layer, precision, device))
    decoder.to(device)


def is_quantized(decoder: nn.Module) -> bool:
    """Return whether ``decoder`` has quantized layers."""
    return any(isinstance(module, QuantizedLinear) for module in decoder.modules())


def dequantized_weight(layer: nn.Linear, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the weight [out, in] that ``layer`` computes with, dequantized if necessary."""
    return layer.dequantize(dtype) if isinstance(layer, QuantizedLinear) else layer.weight.to(dtype)


class QuantizedLinear(nn.Linear):
    """A frozen linear layer with a quantized weight, which is dequantized for each matrix product.

    It computes in the autocast dtype if autocast is enabled, else in the dtype of its input. Outputs are the same in
    training and evaluation mode.

    Args:
        layer: the layer to quantize.
        precision: ``int8`` or ``nf4``.
        device: where the weight is quantized and stored.
    """

    def __init__(self, layer: nn.Linear, precision: str, device: torch.device) -> None:
        super(nn.Linear, self).__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.precision = precision
        weight = layer.weight.detach().to(device)
        quantized, scale = _QUANTIZE[precision](weight)
        self.weight = nn.Parameter(quantized, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.row_norms = nn.Parameter(torch.linalg.vector_norm(weight.float(), dim=1), requires_grad=False)
        """[out] L2 norms of the unquantized weight. DoRA normalizes by them, so its file fits the unquantized model."""
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().to(device), requires_grad=False)
        self.train(layer.training)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """Return the dequantized weight [out, in]."""
        shape = (self.out_features, self.in_features)
        return _DEQUANTIZE[self.precision](self.weight.detach(), self.scale.detach(), shape, dtype)

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        output: Tensor = _DequantizedMatmul.apply(x.to(dtype), self)  # type: ignore[no-untyped-call]
        return output if self.bias is None else output + self.bias.to(dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, precision={self.precision}"


class _DequantizedMatmul(torch.autograd.Function):
    """x @ W.T. The backward pass dequantizes W again instead of saving a full-precision copy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.dequantize(x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.dequantize(gradient.dtype), None


def _quantize_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    # bitsandbytes takes fp16. A row beyond its range is divided by a power of two, which changes no digit.
    peaks = weight.abs().amax(dim=1, keepdim=True).float()
    divisor = torch.exp2((peaks / torch.finfo(torch.float16).max).log2().ceil().clamp_min(0.0))
    quantized, scale, _ = _functions().int8_vectorwise_quant((weight / divisor).to(torch.float16))
    return quantized, scale * divisor.flatten()


def _dequantize_int8(quantized: Tensor, scale: Tensor, _shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    return quantized.to(dtype).mul_((scale / 127)[:, None])  # multiplies in fp32, without a full-size fp32 copy


def _quantize_nf4(weight: Tensor) -> tuple[Tensor, Tensor]:
    blocks = F.pad(weight.flatten(), (0, -weight.numel() % _BLOCK)).view(-1, _BLOCK)
    quantized, state = _functions().quantize_4bit(blocks, blocksize=_BLOCK, quant_type="nf4")
    return quantized, state.absmax.bfloat16()  # 4.25 bits per weight; the error of a bf16 scale is negligible


def _dequantize_nf4(quantized: Tensor, scale: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    # Dequantize as rows of one block: the CPU kernel of bitsandbytes 0.50.2 mixes up scales if a block spans two rows.
    settings = {"shape": torch.Size((len(scale), _BLOCK)), "dtype": dtype, "blocksize": _BLOCK, "quant_type": "nf4"}
    functions = _functions()
    blocks: Tensor = functions.dequantize_4bit(quantized, functions.QuantState(scale.float(), **settings))
    return blocks.flatten()[: math.prod(shape)].view(shape)


_QUANTIZE = {"int8": _quantize_int8, "nf4": _quantize_nf4}
_DEQUANTIZE = {"int8": _dequantize_int8, "nf4": _dequantize_nf4}


def _functions() -> Any:
    import bitsandbytes.functional as functions

    return functions


def _require_kernels(precision: str, device: torch.device) -> None:
    """Check that bitsandbytes has kernels for ``device`` by quantizing a small layer. Raises MissingPackage."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns about kernels that are not used here
    try:
        _functions()
    except ImportError as error:
        raise MissingPackage(
            f"a base model in {precision} needs bitsandbytes, which cannot be imported: {error}",
            hint="Install it with: pip install bitsandbytes. Or set base_precision to auto.",
        ) from None
    try:
        QuantizedLinear(nn.Linear(_BLOCK, 2, bias=False), precision, device).dequantize(torch.float32)
    except (RuntimeError, NotImplementedError, AttributeError, OSError) as error:
        raise MissingPackage(
            f"bitsandbytes cannot quantize the base model to {precision} on {device}: {error}",
            hint="Set base_precision to auto.",
        ) from None
