"""What the MPS backend of PyTorch 2.11 lacks, and what to do instead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor

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


def attention_implementation(device: torch.device | str) -> str:
    """Return the ``attn_implementation`` of a transformers model on ``device``.

    With ``is_causal``, the fused attention of MPS lets tokens attend to later ones in half precision
    (https://github.com/pytorch/pytorch/issues/195910).
    """
    return "eager" if torch.device(device).type == "mps" else "sdpa"


def decomposition_device(device: torch.device) -> torch.device:
    """Return where to compute QR decompositions of matrices on ``device``: MPS has none.

    https://github.com/pytorch/pytorch/issues/177370
    """
    return torch.device("cpu") if device.type == "mps" else device


def same_random_numbers() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """``context_fn`` of ``torch.utils.checkpoint.checkpoint``: the recomputation draws the same dropout.

    PyTorch does so on other devices, but not on MPS (https://github.com/pytorch/pytorch/issues/127676).
    """
    return nullcontext(), _random_state(torch.mps.get_rng_state())


@contextmanager
def _random_state(state: Tensor) -> Iterator[None]:
    """Inside the block, the generator of MPS continues from ``state``; afterwards from where it was before."""
    before = torch.mps.get_rng_state()
    torch.mps.set_rng_state(state)
    try:
        yield
    finally:
        torch.mps.set_rng_state(before)
