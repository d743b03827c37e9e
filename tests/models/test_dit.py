from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.ace_step_transformer import AceStepTransformer1DModel
from torch import Tensor

from acestep.models import load_dit
from acestep.models.dit import AceStepDiT

FRAMES, TOKENS = (301, 180, 555), (54, 77, 31)
Inputs = dict[str, Tensor]


@pytest.fixture(scope="module", params=["acestep-v15-tiny", "acestep-v15-tiny-xl-base"])
def dit(request: pytest.FixtureRequest, tiny_root: Path) -> AceStepDiT:
    return load_dit(tiny_root / request.param)


@pytest.fixture(scope="module")
def samples() -> list[Inputs]:
    generator = torch.Generator().manual_seed(0)

    def sample(frames: int, tokens: int) -> Inputs:
        return {
            "hidden_states": torch.randn(1, frames, 64, generator=generator),
            "timestep": torch.rand(1, generator=generator),
            "encoder_hidden_states": torch.randn(1, tokens, 160, generator=generator),
            "context_latents": torch.randn(1, frames, 128, generator=generator),
        }

    return [sample(*lengths) for lengths in zip(FRAMES, TOKENS, strict=True)]


def predict(dit: AceStepTransformer1DModel, **inputs: Tensor) -> Tensor:
    velocity: Tensor = dit(timestep_r=inputs["timestep"], **inputs).sample
    return velocity


def batch_of(samples: list[Inputs], num_frames: int, num_tokens: int, padding: float) -> Inputs:
    """A batch of the samples, padded with the value ``padding``, and its masks."""

    def padded(tensor: Tensor, length: int) -> Tensor:
        fill = torch.full((1, length - tensor.shape[1], tensor.shape[2]), padding)
        return torch.cat([tensor, fill], dim=1)

    def mask(lengths: list[int], length: int) -> Tensor:
        return torch.arange(length)[None] < torch.tensor(lengths)[:, None]

    return {
        "hidden_states": torch.cat([padded(sample["hidden_states"], num_frames) for sample in samples]),
        "timestep": torch.cat([sample["timestep"] for sample in samples]),
        "encoder_hidden_states": torch.cat([padded(sample["encoder_hidden_states"], num_tokens) for sample in samples]),
        "context_latents": torch.cat([padded(sample["context_latents"], num_frames) for sample in samples]),
        "frame_mask": mask([sample["hidden_states"].shape[1] for sample in samples], num_frames),
        "token_mask": mask([sample["encoder_hidden_states"].shape[1] for sample in samples], num_tokens),
    }


@pytest.mark.parametrize(("num_frames", "num_tokens", "padding"), [(555, 77, 0.0), (700, 120, float("nan"))])
@torch.no_grad()
def test_a_padded_batch_predicts_the_same_as_its_samples_for_any_padding_value(
    num_frames: int, num_tokens: int, padding: float, dit: AceStepDiT, samples: list[Inputs]
) -> None:
    batch = batch_of(samples, num_frames, num_tokens, padding)
    batched = predict(dit, **batch)
    for index, sample in enumerate(samples):
        single = predict(dit, **sample)
        difference = (batched[index : index + 1, : single.shape[1]] - single).abs().max()
        assert difference < 1e-6 * single.abs().max()


def test_gradients_of_a_padded_batch_equal_those_of_its_samples_with_gradient_checkpointing(
    tiny_root: Path, samples: list[Inputs]
) -> None:
    dit = load_dit(tiny_root / "acestep-v15-tiny")
    dit.enable_gradient_checkpointing()
    weight = dit.layers[1].self_attn.to_q.weight.requires_grad_()

    def gradient(velocity: Tensor, mask: Tensor) -> Tensor:
        (grad,) = torch.autograd.grad((velocity * mask[..., None]).pow(2).sum(), weight)
        return grad

    batch = batch_of(samples, 560, 80, 0.0)
    batched = gradient(predict(dit, **batch), batch["frame_mask"])
    dit.disable_gradient_checkpointing()
    single = sum(gradient(predict(dit, **sample), torch.ones(1, 1)) for sample in samples)
    torch.testing.assert_close(batched, single, rtol=1e-5, atol=1e-5 * float(batched.abs().max()))


def test_gradient_checkpointing_changes_neither_prediction_nor_gradient(tiny_root: Path, samples: list[Inputs]) -> None:
    dit = load_dit(tiny_root / "acestep-v15-tiny")
    batch = batch_of(samples, 555, 77, 0.0)
    results = []
    for enable in (dit.disable_gradient_checkpointing, dit.enable_gradient_checkpointing):
        enable()
        batch["hidden_states"] = batch["hidden_states"].detach().requires_grad_()
        velocity = predict(dit, **batch)
        (gradient,) = torch.autograd.grad(velocity.pow(2).sum(), batch["hidden_states"])
        results.append((velocity, gradient))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


@torch.no_grad()
def test_without_masks_predictions_equal_those_of_diffusers(dit: AceStepDiT, samples: list[Inputs]) -> None:
    reference = AceStepTransformer1DModel.from_config(dit.config).eval()
    reference.load_state_dict(dit.state_dict())
    assert list(reference.state_dict()) == list(dit.state_dict())
    for sample in samples:
        torch.testing.assert_close(predict(dit, **sample), predict(reference, **sample), rtol=0, atol=1e-5)
    (velocity,) = dit(timestep_r=samples[0]["timestep"], **samples[0], return_dict=False)
    assert torch.equal(velocity, predict(dit, **samples[0]))


@torch.no_grad()
def test_masks_of_an_unpadded_sample_do_not_change_the_prediction(dit: AceStepDiT, samples: list[Inputs]) -> None:
    sample = samples[2]
    masks = {"frame_mask": torch.ones(1, 555, dtype=torch.bool), "token_mask": torch.ones(1, 31, dtype=torch.bool)}
    torch.testing.assert_close(predict(dit, **sample, **masks), predict(dit, **sample), atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_hidden_states_beyond_the_range_of_fp16_do_not_overflow_under_autocast(
    tiny_root: Path, samples: list[Inputs]
) -> None:
    dit = load_dit(tiny_root / "acestep-v15-tiny")
    for layer in dit.layers:
        layer.scale_shift_table[:, [2, 5]] = 6e4  # the gates, which multiply the outputs of attention and MLP
    peaks: list[float] = []
    dit.layers[-1].register_forward_hook(lambda *call: peaks.append(float(call[-1].abs().max())))
    exact = predict(dit, **samples[0])
    with torch.autocast("cpu", dtype=torch.float16):
        half = predict(dit.half(), **samples[0])
    assert min(peaks) > torch.finfo(torch.float16).max
    assert torch.isfinite(half).all()
    assert torch.nn.functional.cosine_similarity(half.float().flatten(), exact.flatten(), dim=0) > 0.99
