"""Flow matching as ACE-Step 1.5 is trained: a straight path from data to noise and the velocity along it.

x0 is the latent of the sample, x1 is noise, xt = t * x1 + (1 - t) * x0, and the decoder predicts x1 - x0; t = 0 is
data, t = 1 is noise. Shapes use the letters of ``acestep.tensors.record``. Everything is computed in float32,
whatever the dtype of the decoder (Lipman et al., https://arxiv.org/abs/2210.02747).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Batch(NamedTuple):
    """Inputs of one forward pass. The masks are None when no sample of the batch is padded."""

    latents: Tensor  # [B, T, C]  x0
    noise: Tensor  # [B, T, C]  x1
    context: Tensor  # [B, T, 2C]
    condition: Tensor  # [B, L, D]
    t: Tensor  # [B] float32
    dropped: Tensor  # [B] bool  the condition is replaced by the null embedding
    weight: Tensor  # [B]  of the sample's loss
    frame_mask: Tensor | None  # [B, T] bool, True on real frames
    token_mask: Tensor | None  # [B, L] bool


class FlowMatching(nn.Module):
    """Wraps a decoder so that a forward pass gives the loss per sample. Lightning Fabric sets up this one module."""

    null_condition: Tensor

    def __init__(self, network: nn.Module, null_condition: Tensor) -> None:
        """``network`` has the forward of ``AceStepDiT``; ``null_condition`` is [1, 1, D]."""
        super().__init__()
        self.network = network
        self.register_buffer("null_condition", null_condition.float(), persistent=False)

    def forward(self, batch: Batch | None) -> Tensor:
        """[B] float32: the weighted loss of each sample.

        Without a batch it gives a zero scalar whose backward pass adds nothing: DDP reduces the gradients in it.
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
    """Mean squared error against x1 - x0 over the real frames and all channels of each sample: [B] float32.

    Every sample has the same weight, however long, so a batch equals its samples computed one by one.
    """
    error = (velocity.float() - (noise - latents)).square().mean(dim=-1)  # [B, T]
    if frame_mask is None:
        return error.mean(dim=1)
    return (error * frame_mask).sum(dim=1) / frame_mask.sum(dim=1)


def drop_condition(condition: Tensor, null_condition: Tensor, dropped: Tensor) -> Tensor:
    """The condition [B, L, D], replaced by the null embedding [1, 1, D] on every token where ``dropped`` [B]."""
    return torch.where(dropped[:, None, None], null_condition, condition)


def draw_timestep(generator: torch.Generator, *, mu: float, sigma: float) -> float:
    """A timestep in (0, 1): the larger of two logit-normal draws, as ACE-Step 1.5 was trained."""
    draws = torch.randn(2, generator=generator, dtype=torch.float64) * sigma + mu
    return float(torch.sigmoid(draws).max())


def timestep_quantiles(count: int, *, mu: float, sigma: float) -> Tensor:
    """[count] float32: the midpoints of ``count`` equally likely intervals of the ``draw_timestep`` distribution.

    Its CDF is the square of the logit-normal CDF, hence the square root.
    """
    middles = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return torch.sigmoid(mu + sigma * torch.special.ndtri(middles.sqrt())).float()
