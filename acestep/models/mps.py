"""What the MPS backend of PyTorch 2.11 lacks on some Macs, and where to compute instead."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name

from acestep.models.device import Selection

_LENGTH = 2**16 + 1  # https://github.com/pytorch/pytorch/pull/129484: the limit before macOS 15.1 is 2**16


def choose_vae_device(device: str) -> Selection[str]:
    """Return the device of the VAE beside a decoder on ``device``: the CPU where MPS lacks the convolutions it needs.

    The output of its last layers has a length of 48,000 per second of audio.
    """
    if torch.device(device).type == "mps" and not supports_long_convolutions():
        return Selection("cpu", f"MPS on this Mac has no convolution with {_LENGTH:,} outputs; macOS 15.1 adds it")
    return Selection(device, "the device of the decoder")


@cache
def supports_long_convolutions() -> bool:
    """Whether MPS computes a ``conv1d`` with an output longer than 65,536. Tried once per process."""
    signal = torch.ones(1, 1, _LENGTH, device="mps")
    try:
        output = F.conv1d(signal, torch.ones(1, 1, 1, device="mps"))
    except (NotImplementedError, RuntimeError):
        return False
    return float(output[0, 0, -1].cpu()) == 1.0  # PyTorch 2.3 computed wrong values without an error
