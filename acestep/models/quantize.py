"""The frozen base in 8 or 4 bits: memory for the adapter, at the price of a coarser model under it.

bitsandbytes makes the numbers; the layers are our own. Its layers answer one way in training and
another in evaluation (8 bit: activations are rounded too, through fp16), keep the precision of the first input they
meet for ever, and on processors with AVX512-BF16 the 4-bit ones re-pack their weights at the first evaluation:
coarser, without gradient, and not undone by taking an adapter out (bitsandbytes 0.50.2, nn/modules.py).
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
"""Precisions of the base that need this file; the others are number types of ``load_dit``."""

_BLOCK = 64  # numbers that share a scale in nf4, as in QLoRA (https://arxiv.org/abs/2305.14314)


def quantize(decoder: nn.Module, precision: str, *, device: torch.device | str | None = None) -> None:
    """Make the linear layers of the decoder's blocks ``int8`` or ``nf4``, in place, and move the decoder to ``device``.

    One layer after the other goes there, so a decoder on the CPU never stands unpacked on the device. What lies
    outside the blocks (times, condition, first and last layer) is small and stays as it is. To be done before an
    adapter is put in.

    Raises:
        ConfigError: no such precision.
        MissingPackage: bitsandbytes is not installed, or cannot do this on ``device``.
    """
    if precision not in QUANTIZED:
        raise ConfigError([f"no quantised precision is called {precision!r}"], hint=f"Known: {', '.join(QUANTIZED)}.")
    device = torch.device(next(decoder.parameters()).device if device is None else device)
    _try_out(precision, device)
    for name, layer in list(decoder.get_submodule("layers").named_modules()):
        if type(layer) is nn.Linear:
            parent, _, child = name.rpartition(".")
            setattr(decoder.get_submodule(f"layers.{parent}"), child, QuantizedLinear(layer, precision, device))
    decoder.to(device)


def is_quantized(decoder: nn.Module) -> bool:
    """Whether ``quantize`` was here."""
    return any(isinstance(module, QuantizedLinear) for module in decoder.modules())


def dequantized_weight(layer: nn.Linear, dtype: torch.dtype = torch.float32) -> Tensor:
    """[out, in] the numbers that ``layer`` computes with, unpacked if it is quantised."""
    return layer.dequantize(dtype) if isinstance(layer, QuantizedLinear) else layer.weight.to(dtype)


class QuantizedLinear(nn.Linear):
    """A frozen linear layer whose weight is kept packed and unpacked for the moment of each product.

    It computes like a plain layer: in the type of autocast where that is on, else in that of its input, the same in
    training and evaluation.
    """

    def __init__(self, layer: nn.Linear, precision: str, device: torch.device) -> None:
        super(nn.Linear, self).__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.precision = precision
        weight = layer.weight.detach().to(device)
        packed, scale = _PACK[precision](weight)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.row_norms = nn.Parameter(torch.linalg.vector_norm(weight.float(), dim=1), requires_grad=False)
        """[out] of the exact weight: what DoRA measures against, wherever its file will be used."""
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().to(device), requires_grad=False)
        self.train(layer.training)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """[out, in] the numbers that the packed weight stands for."""
        shape = (self.out_features, self.in_features)
        return _UNPACK[self.precision](self.weight.detach(), self.scale.detach(), shape, dtype)

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        product: Tensor = _Product.apply(x.to(dtype), self)  # type: ignore[no-untyped-call]
        return product if self.bias is None else product + self.bias.to(dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, precision={self.precision}"


class _Product(torch.autograd.Function):
    """x @ W.T; the backward pass unpacks W again instead of keeping it, so no plain copy outlives a layer."""

    @staticmethod
    def forward(context: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        context.layer = layer
        return F.linear(x, layer.dequantize(x.dtype))

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ context.layer.dequantize(gradient.dtype), None


def _pack_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    packed, scale, _ = _functions().int8_vectorwise_quant(weight.to(torch.float16))
    return packed, scale


def _unpack_int8(packed: Tensor, scale: Tensor, _shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    return packed.to(dtype).mul_((scale / 127)[:, None])  # computed in fp32, without a copy of that size


def _pack_nf4(weight: Tensor) -> tuple[Tensor, Tensor]:
    blocks = F.pad(weight.flatten(), (0, -weight.numel() % _BLOCK)).view(-1, _BLOCK)
    packed, state = _functions().quantize_4bit(blocks, blocksize=_BLOCK, quant_type="nf4")
    return packed, state.absmax.bfloat16()  # 4.25 bits a weight; far finer than the steps that it scales


def _unpack_nf4(packed: Tensor, scale: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    # Unpacked as rows of one block: on the CPU bitsandbytes 0.50.2 mixes the scales up where a block crosses rows.
    settings = {"shape": torch.Size((len(scale), _BLOCK)), "dtype": dtype, "blocksize": _BLOCK, "quant_type": "nf4"}
    functions = _functions()
    blocks: Tensor = functions.dequantize_4bit(packed, functions.QuantState(scale.float(), **settings))
    return blocks.flatten()[: math.prod(shape)].view(shape)


_PACK = {"int8": _pack_int8, "nf4": _pack_nf4}
_UNPACK = {"int8": _unpack_int8, "nf4": _unpack_nf4}


def _functions() -> Any:
    import bitsandbytes.functional as functions

    return functions


def _try_out(precision: str, device: torch.device) -> None:
    """Pack and unpack a small layer on ``device``: some devices lack the kernels. Raises MissingPackage."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of kernels that nothing here uses
    try:
        _functions()
    except ImportError as problem:
        raise MissingPackage(
            f"a base in {precision} needs bitsandbytes, which cannot be loaded: {problem}",
            hint="Install it with: pip install bitsandbytes. Or choose bf16 for the base.",
        ) from None
    try:
        QuantizedLinear(nn.Linear(_BLOCK, 2, bias=False), precision, device).dequantize(torch.float32)
    except (RuntimeError, NotImplementedError, AttributeError, OSError) as problem:
        raise MissingPackage(
            f"bitsandbytes cannot make a base in {precision} on {device}: {problem}", hint="Choose bf16 for the base."
        ) from None
