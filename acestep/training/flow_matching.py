"""The training maths of ACE-Step 1.5 (SPEC 3.3): straight paths from music to noise, and the velocity along them.

x0 is the music, x1 the noise, xt = t * x1 + (1 - t) * x0; the decoder learns x1 - x0. Time 0 is music, 1 is noise.
Letters for shapes: see ``acestep.tensors.record``. All of it is computed in float32, whatever the decoder's type.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Batch(NamedTuple):
    """What one forward pass needs. Masks are None when every song of the batch fills it."""

    latents: Tensor  # [B, T, C]  x0
    noise: Tensor  # [B, T, C]  x1
    context: Tensor  # [B, T, 2C]
    condition: Tensor  # [B, L, D]
    t: Tensor  # [B] float32
    dropped: Tensor  # [B] bool  the condition is replaced by the null embedding
    weight: Tensor  # [B]  of the song's loss
    frame_mask: Tensor | None  # [B, T] bool, True where the song is
    token_mask: Tensor | None  # [B, L] bool


class FlowMatching(nn.Module):
    """A decoder, called so that it answers with its loss. The one module that Lightning Fabric sets up."""

    null_condition: Tensor

    def __init__(self, network: nn.Module, null_condition: Tensor) -> None:
        """``network`` answers as ``AceStepDiT``; ``null_condition`` is [1, 1, D]."""
        super().__init__()
        self.network = network
        self.register_buffer("null_condition", null_condition.float(), persistent=False)

    def forward(self, batch: Batch | None) -> Tensor:
        """[B] float32: the weighted loss of each song.

        Without a batch zero, []: its backward pass adds nothing to any gradient, and so lets several devices bring
        together what they have.
        """
        if batch is None:
            return torch.stack([p.sum() * 0.0 for p in self.parameters() if p.requires_grad]).sum()
        t = batch.t[:, None, None]  # [B, 1, 1]
        xt = t * batch.noise + (1 - t) * batch.latents
        velocity = self.network(
            hidden_states=xt,
            timestep=batch.t,
            timestep_r=batch.t,
            encoder_hidden_states=drop_condition(batch.condition, self.null_condition, batch.dropped),
            context_latents=batch.context,
            frame_mask=batch.frame_mask,
            token_mask=batch.token_mask,
            return_dict=False,
        )[0]  # [B, T, C]
        return sample_losses(velocity, batch.latents, batch.noise, batch.frame_mask) * batch.weight


def sample_losses(velocity: Tensor, latents: Tensor, noise: Tensor, frame_mask: Tensor | None) -> Tensor:
    """Mean squared error against x1 - x0 over each song's real frames and all channels: [B] float32.

    Each song counts the same, however long: a batch equals its songs taken one by one.
    """
    error = (velocity.float() - (noise - latents)).square().mean(dim=-1)  # [B, T]
    if frame_mask is None:
        return error.mean(dim=1)
    return (error * frame_mask).sum(dim=1) / frame_mask.sum(dim=1)


def drop_condition(condition: Tensor, null_condition: Tensor, dropped: Tensor) -> Tensor:
    """The condition [B, L, D]; where ``dropped`` [B], the null embedding [1, 1, D] on every token of the song."""
    return torch.where(dropped[:, None, None], null_condition, condition)


def draw_timestep(generator: torch.Generator, *, mu: float, sigma: float) -> float:
    """A time in (0, 1): the later of two logit-normal draws, as the model itself was trained (SPEC 3.3)."""
    draws = torch.randn(2, generator=generator, dtype=torch.float64) * sigma + mu
    return float(torch.sigmoid(draws).max())


def timestep_quantiles(count: int, *, mu: float, sigma: float) -> Tensor:
    """[count] float32: the middles of ``count`` equally likely parts of the law of ``draw_timestep``.

    Its distribution function is the square of the logit-normal one, hence the root.
    """
    middles = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return torch.sigmoid(mu + sigma * torch.special.ndtri(middles.sqrt())).float()
