"""Attention in windows against that of diffusers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from diffusers.models.transformers.ace_step_transformer import AceStepTransformer1DModel
from torch import Tensor

from acestep.models.dit import AceStepDiT

WINDOW = 16  # tokens on each side
SIZES = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "sliding_window": WINDOW,
}


@pytest.fixture(scope="module")
def dit() -> AceStepDiT:
    torch.manual_seed(0)
    return AceStepDiT(**SIZES).requires_grad_(False)


@pytest.fixture(scope="module")
def reference(dit: AceStepDiT) -> AceStepTransformer1DModel:
    model = AceStepTransformer1DModel(**SIZES).requires_grad_(False)
    model.load_state_dict(dit.state_dict())
    return model


def inputs(frames: int, batch_size: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(frames)

    def noise(*shape: int) -> Tensor:
        return torch.randn(batch_size, *shape, generator=generator)

    timestep = torch.rand(batch_size, generator=generator)
    return {
        "hidden_states": noise(frames, 64).requires_grad_(),
        "timestep": timestep,
        "timestep_r": timestep,
        "encoder_hidden_states": noise(9, 48),
        "context_latents": noise(frames, 128),
    }


def velocity_and_gradient(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    velocity = model(**batch, return_dict=False)[0]
    (gradient,) = torch.autograd.grad(velocity.square().sum(), batch["hidden_states"])
    return velocity, gradient


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * float(expected.detach().abs().max()))


@pytest.mark.parametrize("tokens", [1, WINDOW, WINDOW + 1, WINDOW + 2, 2 * WINDOW, 2 * WINDOW + 1, 5 * WINDOW + 3])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_velocity_and_gradient_equal_those_of_diffusers_at_any_length(
    tokens: int, batch_size: int, dit: AceStepDiT, reference: AceStepTransformer1DModel
) -> None:
    batch = inputs(2 * tokens, batch_size)
    for actual, expected in zip(
        velocity_and_gradient(dit, batch), velocity_and_gradient(reference, batch), strict=True
    ):
        assert_close(actual, expected)


def test_a_sample_followed_by_whole_windows_of_padding_equals_the_unpadded_sample(dit: AceStepDiT) -> None:
    frames = 2 * (WINDOW + 5)
    alone = inputs(frames)
    padded = {name: value if value.dim() < 3 else value.detach() for name, value in alone.items()}
    for name in ("hidden_states", "context_latents"):
        padded[name] = F.pad(padded[name], (0, 0, 0, 2 * 6 * WINDOW), value=float("nan")).requires_grad_()
    mask = torch.arange(padded["hidden_states"].shape[1])[None] < frames
    velocity = dit(**padded, frame_mask=mask, return_dict=False)[0][:, :frames]
    (gradient,) = torch.autograd.grad(velocity.square().sum(), padded["hidden_states"])
    for actual, expected in zip((velocity, gradient[:, :frames]), velocity_and_gradient(dit, alone), strict=True):
        assert_close(actual, expected)
    assert not gradient[:, frames:].any()


@pytest.mark.parametrize("padded", [False, True])
def test_attention_never_repeats_key_heads_with_a_mask_and_never_masks_all_pairs_of_tokens(
    padded: bool, dit: AceStepDiT, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With both, GPUs of compute capability 8.0 to 12.0 fall back to attention that stores all weights."""
    calls: list[tuple[Tensor, Tensor, dict[str, Any]]] = []
    original = F.scaled_dot_product_attention

    def record(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        calls.append((query, key, options))
        return original(query, key, value, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", record)
    tokens = 8 * WINDOW
    mask = torch.arange(2 * tokens)[None] < torch.tensor([[2 * tokens], [tokens]]) if padded else None
    dit(**inputs(2 * tokens, 2), frame_mask=mask, return_dict=False)
    assert len(calls) == 2 * SIZES["num_hidden_layers"]
    masks = [options["attn_mask"] for _, _, options in calls]
    assert not any(options.get("enable_gqa") for _, _, options in calls)
    assert all(tensor.stride(-1) == 1 for query, key, _ in calls for tensor in (query, key))  # fused kernels need it
    assert all(mask is None or mask.numel() <= 2 * 8 * 3 * WINDOW * 3 * WINDOW for mask in masks)
    sliding = [key.shape[2] for _, key, _ in calls[::4]]
    assert sliding == [3 * WINDOW] * len(sliding)
    if not padded:
        assert [mask is None for mask in masks] == [False, True, True, True] * 2  # sliding, cross, full, cross
