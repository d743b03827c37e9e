"""The base in 8 or 4 bits: which layers, how near, how large, and the same however it is called."""

from __future__ import annotations

import builtins
import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from acestep.core.errors import ConfigError, MissingPackage
from acestep.models.dit import AceStepDiT
from acestep.models.load import load_dit
from acestep.models.quantize import QUANTIZED, QuantizedLinear, dequantized_weight, is_quantized, quantize

every_precision = pytest.mark.parametrize("precision", QUANTIZED)
ERROR = {"int8": 0.01, "nf4": 0.1}  # of normally distributed weights
BITS = {"int8": 8.05, "nf4": 4.26}  # a weight, scales included


def made(
    precision: str, *, bias: bool = False, dtype: torch.dtype = torch.float32
) -> tuple[nn.Linear, QuantizedLinear]:
    """A plain layer [out 160, in 96] with normal weights, and its quantised twin."""
    layer = nn.Linear(96, 160, bias=bias, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(0.02 * torch.randn(160, 96, generator=torch.Generator().manual_seed(1)))
    return layer, QuantizedLinear(layer, precision, torch.device("cpu"))


def inputs(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 7, 96, generator=torch.Generator().manual_seed(2)).to(dtype)


@pytest.fixture
def decoder(tiny_checkpoint: Path) -> AceStepDiT:
    return load_dit(tiny_checkpoint)


@torch.no_grad()
def answer(decoder: AceStepDiT) -> Tensor:
    generator = torch.Generator().manual_seed(6)
    shapes = ((20, 64), (20, 128), (9, 160))
    points, context, condition = (torch.randn(1, *shape, generator=generator) for shape in shapes)
    time = torch.tensor([0.4])
    found: Tensor = decoder(points, time, time, condition, context, return_dict=False)[0]
    return found


@every_precision
def test_the_linear_layers_of_the_blocks_are_quantised_and_no_others(decoder: AceStepDiT, precision: str) -> None:
    linear = {name for name, module in decoder.named_modules() if isinstance(module, nn.Linear)}
    outside = {name: p.clone() for name, p in decoder.named_parameters() if not name.startswith("layers.")}
    assert not is_quantized(decoder)
    quantize(decoder, precision)
    assert is_quantized(decoder)
    found = {name for name, module in decoder.named_modules() if isinstance(module, QuantizedLinear)}
    assert found == {name for name in linear if name.startswith("layers.")}
    assert len(found) == 11 * len(decoder.layers)
    parameters = dict(decoder.named_parameters())
    assert all(torch.equal(parameters[name], value) for name, value in outside.items())
    assert not any(p.requires_grad for p in parameters.values())


@every_precision
def test_the_decoder_answers_nearly_as_before(decoder: AceStepDiT, precision: str) -> None:
    exact = answer(decoder)
    quantize(decoder, precision)
    assert 0 < float((answer(decoder) - exact).norm() / exact.norm()) < ERROR[precision] * 2


@every_precision
def test_weights_are_near_and_small(precision: str) -> None:
    layer, packed = made(precision)
    assert float((dequantized_weight(packed) - layer.weight).norm() / layer.weight.norm()) < ERROR[precision]
    num_bytes = sum(p.numel() * p.element_size() for p in (packed.weight, packed.scale))
    assert 8 * num_bytes / layer.weight.numel() < BITS[precision] + 32 / 96
    torch.testing.assert_close(packed.row_norms, layer.weight.norm(dim=1))
    assert torch.equal(dequantized_weight(layer), layer.weight)


@every_precision
@pytest.mark.parametrize(("out", "width"), [(64, 64), (10, 160), (6, 50), (3, 22)])
def test_weights_of_any_shape_are_near(precision: str, out: int, width: int) -> None:
    layer = nn.Linear(width, out, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(out, width, generator=torch.Generator().manual_seed(1)))
    found = dequantized_weight(QuantizedLinear(layer, precision, torch.device("cpu")))
    assert float((found - layer.weight).norm() / layer.weight.norm()) < ERROR[precision] * 1.2


@every_precision
def test_equal_weights_are_quantised_alike(precision: str) -> None:
    first, second = made(precision)[1], made(precision)[1]
    assert torch.equal(dequantized_weight(first), dequantized_weight(second))


@every_precision
@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_computes_with_the_unpacked_weight_in_both_directions(precision: str, bias: bool) -> None:
    layer, packed = made(precision, bias=bias)
    x, y = inputs().requires_grad_(), inputs().requires_grad_()
    found, wanted = packed(x), F.linear(y, dequantized_weight(packed), layer.bias)
    assert torch.equal(found, wanted)
    found.square().sum().backward()
    wanted.square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


@every_precision
@pytest.mark.parametrize(
    ("given", "autocast", "computed"),
    [
        (torch.float32, None, torch.float32),
        (torch.bfloat16, None, torch.bfloat16),
        (torch.float32, torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.float16, torch.float16),
    ],
)
def test_a_layer_computes_in_the_type_that_a_plain_one_would(
    precision: str, given: torch.dtype, autocast: torch.dtype | None, computed: torch.dtype
) -> None:
    layer, packed = made(precision, dtype=given)
    x = inputs(given).requires_grad_()
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        found, plain = packed(x), layer(x)
    assert found.dtype == plain.dtype == computed
    assert torch.equal(found, F.linear(x.to(computed), packed.dequantize(computed)))
    found.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == given
    assert x.grad.any()


@every_precision
def test_a_layer_forgets_the_type_of_earlier_inputs(precision: str) -> None:
    _, packed = made(precision)
    wanted = packed(inputs())
    packed(inputs(torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        packed(inputs())
    assert torch.equal(packed(inputs()), wanted)


@every_precision
def test_training_and_evaluation_give_the_same_answer_and_evaluation_leaves_gradients_alive(precision: str) -> None:
    _, packed = made(precision)
    with torch.no_grad():
        evaluated, weight = packed.eval()(inputs()), packed.weight.clone()
    x = inputs().requires_grad_()
    trained = packed.train()(x)
    trained.sum().backward()
    assert torch.equal(trained, evaluated)
    assert torch.equal(packed.weight, weight)
    assert x.grad is not None
    assert x.grad.any()


@every_precision
def test_no_unpacked_weight_is_kept_for_the_backward_pass(precision: str) -> None:
    _, packed = made(precision)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        packed(inputs().requires_grad_())
    assert all(tensor.shape != (160, 96) for tensor in kept)


@every_precision
def test_empty_rows_stay_empty(precision: str) -> None:
    layer, _ = made(precision)
    with torch.no_grad():
        layer.weight[3] = 0.0
    weight = dequantized_weight(QuantizedLinear(layer, precision, torch.device("cpu")))
    assert not weight[3].any()
    assert weight.isfinite().all()


@every_precision
def test_a_copy_and_a_state_dict_hold_everything(precision: str) -> None:
    _, packed = made(precision)
    assert torch.equal(copy.deepcopy(packed)(inputs()), packed(inputs()))
    _, other = made(precision)
    with torch.no_grad():
        other.scale.zero_()
    other.load_state_dict(packed.state_dict())
    assert torch.equal(other(inputs()), packed(inputs()))


def test_an_unknown_precision_is_refused_with_the_known_ones(decoder: AceStepDiT) -> None:
    with pytest.raises(ConfigError, match="'int3'") as caught:
        quantize(decoder, "int3")
    assert "int8, nf4" in caught.value.hint
    assert not is_quantized(decoder)


@every_precision
def test_a_missing_package_is_an_error_and_no_fallback(
    decoder: AceStepDiT, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_import = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("bitsandbytes"):
            raise ImportError("No module named 'bitsandbytes'")
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    for name in [name for name in sys.modules if name.startswith("bitsandbytes")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingPackage, match=f"base in {precision} needs bitsandbytes") as caught:
        quantize(decoder, precision)
    assert "pip install bitsandbytes" in caught.value.hint
    assert not is_quantized(decoder)


@every_precision
def test_a_device_without_the_kernels_is_an_error_and_no_fallback(
    decoder: AceStepDiT, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import bitsandbytes.functional as functions

    def lacking(*_: Any, **__: Any) -> Any:
        raise NotImplementedError("no kernel")

    monkeypatch.setattr(functions, "int8_vectorwise_quant" if precision == "int8" else "quantize_4bit", lacking)
    with pytest.raises(MissingPackage, match=f"cannot make a base in {precision} on cpu: no kernel") as caught:
        quantize(decoder, precision)
    assert "bf16" in caught.value.hint
    assert not is_quantized(decoder)


def test_importing_the_module_does_not_import_bitsandbytes() -> None:
    import subprocess

    code = "import sys, acestep.models.quantize; assert 'bitsandbytes' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
