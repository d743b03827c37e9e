"""Quantization of the base model: layers, error, size, and equal outputs in training and evaluation mode."""

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
ERROR = {"int8": 0.01, "nf4": 0.1}  # relative, for normally distributed weights
BITS = {"int8": 8.05, "nf4": 4.26}  # per weight, including scales


def make_layers(
    precision: str, *, bias: bool = False, dtype: torch.dtype = torch.float32
) -> tuple[nn.Linear, QuantizedLinear]:
    """A linear layer [out 160, in 96] with normally distributed weights, and the quantized layer made from it."""
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
def predict(decoder: AceStepDiT) -> Tensor:
    generator = torch.Generator().manual_seed(6)
    shapes = ((20, 64), (20, 128), (9, 160))
    latents, context, condition = (torch.randn(1, *shape, generator=generator) for shape in shapes)
    time = torch.tensor([0.4])
    velocity: Tensor = decoder(latents, time, time, condition, context, return_dict=False)[0]
    return velocity


@every_precision
def test_only_the_linear_layers_of_the_blocks_are_quantized(decoder: AceStepDiT, precision: str) -> None:
    linear = {name for name, module in decoder.named_modules() if isinstance(module, nn.Linear)}
    outside = {name: p.clone() for name, p in decoder.named_parameters() if not name.startswith("layers.")}
    assert not is_quantized(decoder)
    quantize(decoder, precision)
    assert is_quantized(decoder)
    quantized = {name for name, module in decoder.named_modules() if isinstance(module, QuantizedLinear)}
    assert quantized == {name for name in linear if name.startswith("layers.")}
    assert len(quantized) == 11 * len(decoder.layers)
    parameters = dict(decoder.named_parameters())
    assert all(torch.equal(parameters[name], value) for name, value in outside.items())
    assert not any(p.requires_grad for p in parameters.values())


@every_precision
def test_the_prediction_of_the_decoder_changes_little(decoder: AceStepDiT, precision: str) -> None:
    exact = predict(decoder)
    quantize(decoder, precision)
    assert 0 < float((predict(decoder) - exact).norm() / exact.norm()) < ERROR[precision] * 2


@every_precision
def test_quantized_weights_have_the_expected_error_and_size(precision: str) -> None:
    layer, quantized = make_layers(precision)
    assert float((dequantized_weight(quantized) - layer.weight).norm() / layer.weight.norm()) < ERROR[precision]
    num_bytes = sum(p.numel() * p.element_size() for p in (quantized.weight, quantized.scale))
    assert 8 * num_bytes / layer.weight.numel() < BITS[precision] + 32 / 96
    torch.testing.assert_close(quantized.row_norms, layer.weight.norm(dim=1))
    assert torch.equal(dequantized_weight(layer), layer.weight)


@every_precision
@pytest.mark.parametrize(("out", "width"), [(64, 64), (10, 160), (6, 50), (3, 22)])
def test_weights_of_any_shape_have_the_expected_error(precision: str, out: int, width: int) -> None:
    layer = nn.Linear(width, out, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(out, width, generator=torch.Generator().manual_seed(1)))
    weight = dequantized_weight(QuantizedLinear(layer, precision, torch.device("cpu")))
    assert float((weight - layer.weight).norm() / layer.weight.norm()) < ERROR[precision] * 1.2


@every_precision
def test_quantization_is_deterministic(precision: str) -> None:
    first, second = make_layers(precision)[1], make_layers(precision)[1]
    assert torch.equal(dequantized_weight(first), dequantized_weight(second))


@every_precision
@pytest.mark.parametrize("bias", [False, True])
def test_forward_and_backward_use_the_dequantized_weight(precision: str, bias: bool) -> None:
    layer, quantized = make_layers(precision, bias=bias)
    x, y = inputs().requires_grad_(), inputs().requires_grad_()
    actual, expected = quantized(x), F.linear(y, dequantized_weight(quantized), layer.bias)
    assert torch.equal(actual, expected)
    actual.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


@every_precision
@pytest.mark.parametrize(
    ("input_dtype", "autocast", "output_dtype"),
    [
        (torch.float32, None, torch.float32),
        (torch.bfloat16, None, torch.bfloat16),
        (torch.float32, torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.float16, torch.float16),
    ],
)
def test_a_quantized_layer_computes_in_the_dtype_of_an_unquantized_layer(
    precision: str, input_dtype: torch.dtype, autocast: torch.dtype | None, output_dtype: torch.dtype
) -> None:
    layer, quantized = make_layers(precision, dtype=input_dtype)
    x = inputs(input_dtype).requires_grad_()
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        actual, reference = quantized(x), layer(x)
    assert actual.dtype == reference.dtype == output_dtype
    assert torch.equal(actual, F.linear(x.to(output_dtype), quantized.dequantize(output_dtype)))
    actual.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == input_dtype
    assert x.grad.any()


@every_precision
def test_a_layer_does_not_keep_the_dtype_of_earlier_inputs(precision: str) -> None:
    _, quantized = make_layers(precision)
    expected = quantized(inputs())
    quantized(inputs(torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        quantized(inputs())
    assert torch.equal(quantized(inputs()), expected)


@every_precision
def test_training_and_evaluation_mode_give_the_same_output_and_evaluation_keeps_gradients(precision: str) -> None:
    _, quantized = make_layers(precision)
    with torch.no_grad():
        evaluated, weight = quantized.eval()(inputs()), quantized.weight.clone()
    x = inputs().requires_grad_()
    trained = quantized.train()(x)
    trained.sum().backward()
    assert torch.equal(trained, evaluated)
    assert torch.equal(quantized.weight, weight)
    assert x.grad is not None
    assert x.grad.any()


@every_precision
def test_no_dequantized_weight_is_saved_for_the_backward_pass(precision: str) -> None:
    _, quantized = make_layers(precision)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        quantized(inputs().requires_grad_())
    assert all(tensor.shape != (160, 96) for tensor in saved)


@every_precision
def test_zero_rows_stay_zero(precision: str) -> None:
    layer, _ = make_layers(precision)
    with torch.no_grad():
        layer.weight[3] = 0.0
    weight = dequantized_weight(QuantizedLinear(layer, precision, torch.device("cpu")))
    assert not weight[3].any()
    assert weight.isfinite().all()


@every_precision
def test_deepcopy_and_state_dict_preserve_the_layer(precision: str) -> None:
    _, quantized = make_layers(precision)
    assert torch.equal(copy.deepcopy(quantized)(inputs()), quantized(inputs()))
    _, loaded = make_layers(precision)
    with torch.no_grad():
        loaded.scale.zero_()
    loaded.load_state_dict(quantized.state_dict())
    assert torch.equal(loaded(inputs()), quantized(inputs()))


def test_an_unknown_precision_is_an_error_that_lists_the_known_ones(decoder: AceStepDiT) -> None:
    with pytest.raises(ConfigError, match="'int3'") as caught:
        quantize(decoder, "int3")
    assert "int8, nf4" in caught.value.hint
    assert not is_quantized(decoder)


@every_precision
def test_a_missing_package_is_an_error_without_fallback(
    decoder: AceStepDiT, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_import = builtins.__import__

    def import_without_bitsandbytes(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("bitsandbytes"):
            raise ImportError("No module named 'bitsandbytes'")
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", import_without_bitsandbytes)
    for name in [name for name in sys.modules if name.startswith("bitsandbytes")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingPackage, match=f"base model in {precision} needs bitsandbytes") as caught:
        quantize(decoder, precision)
    assert "pip install bitsandbytes" in caught.value.hint
    assert not is_quantized(decoder)


@every_precision
def test_a_device_without_kernels_is_an_error_without_fallback(
    decoder: AceStepDiT, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import bitsandbytes.functional as functions

    def not_implemented(*_: Any, **__: Any) -> Any:
        raise NotImplementedError("no kernel")

    monkeypatch.setattr(functions, "int8_vectorwise_quant" if precision == "int8" else "quantize_4bit", not_implemented)
    with pytest.raises(
        MissingPackage, match=f"cannot quantize the base model to {precision} on cpu: no kernel"
    ) as caught:
        quantize(decoder, precision)
    assert "base_precision to auto" in caught.value.hint
    assert not is_quantized(decoder)


def test_importing_the_module_does_not_import_bitsandbytes() -> None:
    import subprocess

    code = "import sys, acestep.models.quantize; assert 'bitsandbytes' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, check=True)


def test_int8_weights_beyond_the_range_of_fp16_do_not_overflow() -> None:
    layer, quantized = make_layers("int8")
    with torch.no_grad():
        layer.weight[3] *= 2.0**30
    large = QuantizedLinear(layer, "int8", torch.device("cpu"))
    assert torch.equal(large.weight, quantized.weight)
    torch.testing.assert_close(large.dequantize(torch.float32)[3], quantized.dequantize(torch.float32)[3] * 2.0**30)


@every_precision
def test_fp32_is_computed_without_fp16(precision: str) -> None:
    _, quantized = make_layers(precision)
    huge = inputs() * 1e6  # overflows in fp16
    assert torch.isfinite(quantized(huge)).all()
    assert torch.isfinite(quantized.dequantize(torch.float32)).all()


def test_weights_in_the_mapped_file_are_quantized_alike(tiny_checkpoint: Path) -> None:
    copied, mapped = load_dit(tiny_checkpoint), load_dit(tiny_checkpoint, mapped=True)
    for model in (copied, mapped):
        quantize(model, "int8")
    expected, found = copied.state_dict(), mapped.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
