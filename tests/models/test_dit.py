from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.ace_step_transformer import AceStepTransformer1DModel
from torch import Tensor

from acestep.models import load_dit
from acestep.models.dit import AceStepDiT

FRAMES, TOKENS = (301, 180, 555), (54, 77, 31)
Song = dict[str, Tensor]


@pytest.fixture(scope="module", params=["acestep-v15-tiny", "acestep-v15-tiny-xl-base"])
def dit(request: pytest.FixtureRequest, tiny_root: Path) -> AceStepDiT:
    return load_dit(tiny_root / request.param)


@pytest.fixture(scope="module")
def songs() -> list[Song]:
    generator = torch.Generator().manual_seed(0)

    def song(frames: int, tokens: int) -> Song:
        return {
            "hidden_states": torch.randn(1, frames, 64, generator=generator),
            "timestep": torch.rand(1, generator=generator),
            "encoder_hidden_states": torch.randn(1, tokens, 160, generator=generator),
            "context_latents": torch.randn(1, frames, 128, generator=generator),
        }

    return [song(*lengths) for lengths in zip(FRAMES, TOKENS, strict=True)]


def answer(dit: AceStepTransformer1DModel, **inputs: Tensor) -> Tensor:
    velocity: Tensor = dit(timestep_r=inputs["timestep"], **inputs).sample
    return velocity


def batch_of(songs: list[Song], num_frames: int, num_tokens: int, padding: float) -> Song:
    """The songs padded to common lengths with ``padding``, and their masks."""

    def padded(tensor: Tensor, length: int) -> Tensor:
        rest = torch.full((1, length - tensor.shape[1], tensor.shape[2]), padding)
        return torch.cat([tensor, rest], dim=1)

    def mask(lengths: list[int], length: int) -> Tensor:
        return torch.arange(length)[None] < torch.tensor(lengths)[:, None]

    return {
        "hidden_states": torch.cat([padded(song["hidden_states"], num_frames) for song in songs]),
        "timestep": torch.cat([song["timestep"] for song in songs]),
        "encoder_hidden_states": torch.cat([padded(song["encoder_hidden_states"], num_tokens) for song in songs]),
        "context_latents": torch.cat([padded(song["context_latents"], num_frames) for song in songs]),
        "frame_mask": mask([song["hidden_states"].shape[1] for song in songs], num_frames),
        "token_mask": mask([song["encoder_hidden_states"].shape[1] for song in songs], num_tokens),
    }


@pytest.mark.parametrize(("num_frames", "num_tokens", "padding"), [(555, 77, 0.0), (700, 120, float("nan"))])
@torch.no_grad()
def test_a_batch_gives_what_its_songs_give_alone_whatever_pads_it(
    num_frames: int, num_tokens: int, padding: float, dit: AceStepDiT, songs: list[Song]
) -> None:
    batch = batch_of(songs, num_frames, num_tokens, padding)
    together = answer(dit, **batch)
    for index, song in enumerate(songs):
        alone = answer(dit, **song)
        difference = (together[index : index + 1, : alone.shape[1]] - alone).abs().max()
        assert difference < 1e-6 * alone.abs().max()


def test_gradients_of_a_batch_are_those_of_its_songs_under_checkpointing(tiny_root: Path, songs: list[Song]) -> None:
    dit = load_dit(tiny_root / "acestep-v15-tiny")
    dit.enable_gradient_checkpointing()
    weight = dit.layers[1].self_attn.to_q.weight.requires_grad_()

    def gradient(velocity: Tensor, mask: Tensor) -> Tensor:
        (found,) = torch.autograd.grad((velocity * mask[..., None]).pow(2).sum(), weight)
        return found

    batch = batch_of(songs, 560, 80, 0.0)
    together = gradient(answer(dit, **batch), batch["frame_mask"])
    dit.disable_gradient_checkpointing()
    alone = sum(gradient(answer(dit, **song), torch.ones(1, 1)) for song in songs)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5 * float(together.abs().max()))


def test_checkpointing_changes_neither_answer_nor_gradient(tiny_root: Path, songs: list[Song]) -> None:
    dit = load_dit(tiny_root / "acestep-v15-tiny")
    batch = batch_of(songs, 555, 77, 0.0)
    found = []
    for enable in (dit.disable_gradient_checkpointing, dit.enable_gradient_checkpointing):
        enable()
        batch["hidden_states"] = batch["hidden_states"].detach().requires_grad_()
        velocity = answer(dit, **batch)
        (gradient,) = torch.autograd.grad(velocity.pow(2).sum(), batch["hidden_states"])
        found.append((velocity, gradient))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1])


@torch.no_grad()
def test_without_masks_it_is_the_diffusers_model_bit_for_bit(dit: AceStepDiT, songs: list[Song]) -> None:
    plain = AceStepTransformer1DModel.from_config(dit.config).eval()
    plain.load_state_dict(dit.state_dict())
    assert list(plain.state_dict()) == list(dit.state_dict())
    for song in songs:
        assert torch.equal(answer(dit, **song), answer(plain, **song))
    (velocity,) = dit(timestep_r=songs[0]["timestep"], **songs[0], return_dict=False)
    assert torch.equal(velocity, answer(plain, **songs[0]))


@torch.no_grad()
def test_masks_of_a_song_without_padding_change_nothing(dit: AceStepDiT, songs: list[Song]) -> None:
    song = songs[2]
    masks = {"frame_mask": torch.ones(1, 555, dtype=torch.bool), "token_mask": torch.ones(1, 31, dtype=torch.bool)}
    torch.testing.assert_close(answer(dit, **song, **masks), answer(dit, **song), atol=1e-6, rtol=1e-6)
