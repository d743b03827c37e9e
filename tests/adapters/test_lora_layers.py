"""The layers of LoRA and DoRA: equal to PEFT's, one dropout mask for layers with the same input, dtypes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from acestep.adapters.configs import DoRAConfig, LoRAConfig
from acestep.adapters.dropout import Dropout
from acestep.adapters.files import inject
from acestep.models.dit import AceStepDiT
from acestep.models.projections import project
from tests.adapters.small import make_decoder, run, trained


class Operators(TorchDispatchMode):
    """Records the operators of the ``with`` block: how often each is called, and the dtypes that matmuls take."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.matmul_dtypes = Counter[str](), set[torch.dtype]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        self.calls[name] += 1
        if name in ("mm", "addmm", "bmm", "linear"):
            self.matmul_dtypes |= {value.dtype for value in args if isinstance(value, Tensor)}
        return function(*args, **(kwargs or {}))


def gradients(network: torch.nn.Module) -> dict[str, Tensor]:
    output = run(network)
    output.square().mean().backward()
    return {"output": output.detach()} | {
        name.partition("base_model.model.")[2] or name: parameter.grad
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("train_mlp", [False, True])
def test_without_dropout_outputs_and_gradients_are_those_of_peft(train_mlp: bool) -> None:
    ours, reference = make_decoder(), make_decoder()
    adapter = trained(ours, "lora", LoRAConfig(r=4, alpha=6, dropout=0.0), train_mlp=train_mlp)
    targets = [name for name, module in ours.named_modules() if hasattr(module, "lora_A")]
    peft = get_peft_model(reference.train(), LoraConfig(r=4, lora_alpha=6, target_modules=targets))
    reference.load_state_dict(ours.state_dict())
    for parameter in adapter.parameters():
        parameter.grad = None
    expected, actual = gradients(peft), gradients(ours.train())
    assert len(expected) == len(adapter.parameters()) + 1
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-5, atol=1e-5 * float(value.abs().max()), msg=name)


def injected(kind: str = "lora", dropout: float = 0.5) -> AceStepDiT:
    decoder = make_decoder(num_layers=1)
    config = {"lora": LoRAConfig, "dora": DoRAConfig}[kind](r=4, alpha=8, dropout=dropout)
    adapter = inject(decoder, kind, config, "both", True)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return decoder.train()


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_layers_with_the_same_input_share_a_dropout_mask_and_each_forward_pass_draws_another(kind: str) -> None:
    attention = injected(kind).layers[0].self_attn
    attention.to_v.load_state_dict(attention.to_k.state_dict())
    x = torch.randn(1, 9, 64)
    key, value = project(x, attention.to_k, attention.to_v)
    assert torch.equal(key, value)
    assert not torch.equal(key, project(x, attention.to_k, attention.to_v)[0])
    assert not torch.equal(attention.to_k(x), attention.to_v(x))
    attention.eval()
    assert torch.equal(project(x, attention.to_k)[0], attention.to_k(x))


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_evaluation_mode_has_no_dropout(kind: str) -> None:
    with torch.no_grad():
        dropped, whole = injected(kind), injected(kind, dropout=0.0)
        assert not torch.equal(run(dropped), run(whole))
        assert torch.equal(run(dropped.eval()), run(whole.eval()))


@pytest.mark.parametrize("every", [0, 1])
def test_a_block_draws_five_masks_and_all_its_matmuls_are_in_the_compute_dtype(every: int) -> None:
    decoder = make_decoder(num_layers=3, dtype=torch.bfloat16)
    if every:
        decoder.enable_gradient_checkpointing()
    inject(decoder, "lora", LoRAConfig(r=4), "both", False)
    with Operators() as found:
        with torch.autocast("cpu", torch.bfloat16):
            loss = run(decoder.train(), torch.bfloat16).float().square().mean()
        assert found.calls["random_"] == 3 * 5
        loss.backward()
    assert found.calls["random_"] == 3 * 5 * (2 if every else 1)
    assert found.matmul_dtypes == {torch.bfloat16}
    assert "bernoulli_" not in found.calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dropout_keeps_the_mean_and_passes_gradients_where_it_passes_values(dtype: torch.dtype) -> None:
    x = torch.full((3, 7, 1001), 2.0, dtype=dtype, requires_grad=True)
    torch.manual_seed(1)
    output = Dropout(0.1)(x)
    (gradient,) = torch.autograd.grad(output.sum(), x)
    assert torch.equal(gradient * 2, output.detach())
    kept = output != 0
    assert float(kept.float().mean()) == pytest.approx(0.9, abs=0.01)
    assert float(output.detach()[kept].float().unique()) == pytest.approx(2 / 0.9, rel=0.005)
    torch.manual_seed(1)
    assert torch.equal(Dropout(0.1)(torch.ones(3, 7, 1001)) != 0, kept)  # the same elements in each dtype
    assert torch.equal(Dropout(0.1).eval()(x), x)
