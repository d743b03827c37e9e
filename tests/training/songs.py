"""Songs without audio, and a decoder that answers in no time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from acestep.models.checkpoint import encoder_fingerprint, find_checkpoint
from acestep.tensors.record import TensorRecord, write_record
from acestep.training.data import TrainingSample

WIDTH = 64  # of the conditions of the tiny checkpoints' 2B family


def make_record(frames: int, tokens: int, *, seed: int, width: int = WIDTH, **metadata: str) -> TensorRecord:
    """A tone color that holds for the whole song, with a little noise, so that there is something to learn."""
    generator = torch.Generator().manual_seed(seed)
    color = torch.randn(1, 64, generator=generator)
    latents = color + 0.1 * torch.randn(frames, 64, generator=generator)
    context = torch.cat([torch.zeros(frames, 64), torch.ones(frames, 64)], dim=1)
    return TensorRecord(latents, context, torch.randn(tokens, width, generator=generator), dict(metadata))


def make_samples(lengths: Sequence[tuple[int, int]], width: int = WIDTH) -> list[TrainingSample]:
    """Songs of these many frames and tokens."""
    records = [make_record(*length, seed=i, width=width) for i, length in enumerate(lengths)]
    return [TrainingSample(f"song {i}.pt", f"{i}", record) for i, record in enumerate(records)]


def write_samples(folder: Path, checkpoint: Path, lengths: Sequence[tuple[int, int]], *, seed: int = 0) -> Path:
    """A folder of tensors for ``checkpoint``, as preprocessing would leave it."""
    opened = find_checkpoint(checkpoint)
    width = opened.config.get("encoder_hidden_size") or opened.config["hidden_size"]
    facts = {"encoder_fingerprint": encoder_fingerprint(opened), "model_checkpoint": opened.name}
    facts |= {"custom_tag": "zyxtag", "tag_position": "append"}
    for i, (frames, tokens) in enumerate(lengths):
        record = make_record(frames, tokens, seed=seed + i, width=width, filename=f"song {i}.wav", **facts)
        write_record(folder / f"song {i}.pt", record)
    return folder


class ToyDecoder(nn.Module):
    """Answers with a linear map of the point, the mean of the condition and the time; ignores padding."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.point = nn.Parameter(0.1 * torch.randn(64, 64, generator=generator))
        self.condition = nn.Parameter(0.1 * torch.randn(width, 64, generator=generator))
        self.dropout = nn.Dropout(0.0)

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        timestep_r: Tensor,
        encoder_hidden_states: Tensor,
        context_latents: Tensor,
        frame_mask: Tensor | None,
        token_mask: Tensor | None,
        return_dict: bool,
    ) -> tuple[Tensor]:
        assert torch.equal(timestep, timestep_r)
        if token_mask is None:
            mean = encoder_hidden_states.mean(dim=1)
        else:
            mean = (encoder_hidden_states * token_mask[..., None]).sum(dim=1) / token_mask.sum(dim=1, keepdim=True)
        answer = self.dropout(hidden_states @ self.point) + (mean @ self.condition)[:, None]
        return (answer * timestep[:, None, None],)
