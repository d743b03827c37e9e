"""Check before a local model is loaded whether it fits into the free memory of the device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import torch

from acestep.captioning.omni_buffers import IN_BLOCKS, choose_attention
from acestep.captioning.omni_load import read_thinker_settings
from acestep.captioning.omni_memory import GIB, OmniSizes, Quantization, omni_memory
from acestep.core.errors import CaptionError, CheckpointError
from acestep.models.device import memory_free_bytes

_WINDOWS_S = (180.0, 120.0, 60.0, 30.0)  # suggested lengths, the longest that fits


def read_sizes(folder: Path) -> OmniSizes:
    """The sizes of the model in ``folder``, from config.json alone.

    Raises:
        CheckpointError: config.json is missing, or describes another model.
    """
    try:
        return OmniSizes.of(read_thinker_settings(folder))
    except ValueError as problem:
        raise CheckpointError(f"{folder} cannot be loaded: {problem}", hint="Download it again.") from None


def require_memory(
    name: str,
    sizes: OmniSizes,
    *,
    device: str,
    dtype: torch.dtype,
    quantization: Quantization,
    window_s: float,
    new_tokens: int,
) -> None:
    """Do nothing if the model ``name`` fits, or if the free memory is unknown.

    Raises:
        CaptionError: it does not fit. The hint names the settings with which it does.
    """
    free = memory_free_bytes(device)
    common: dict[str, Any] = {
        "sizes": sizes,
        "dtype_bytes": dtype.itemsize,
        "new_tokens": new_tokens,
        "device": torch.device(device).type,
        "fused": choose_attention(device, dtype) != IN_BLOCKS,
    }
    needed = omni_memory(quantization, window_s=window_s, **common).needed
    if free is None or needed <= free:
        return
    fitting = [text for text, size in _alternatives(quantization, window_s, common) if size <= free]
    raise CaptionError(
        f"{name} needs {needed / GIB:.1f} GB of memory on {device} ({_described(quantization, dtype)}, "
        f"{window_s:g} s of audio), {free / GIB:.1f} GB are free",
        hint=f"Choose {' or '.join([*fitting[:2], 'an online service', 'another device'])}, or close other programs.",
    )


def _alternatives(quantization: Quantization, window_s: float, common: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Settings that need less, and the bytes they need."""
    names = get_args(Quantization)
    weaker = names[names.index(quantization) + 1 :] if common["device"] == "cuda" else ()
    for name in weaker:
        needed = omni_memory(name, window_s=window_s, **common).needed
        yield f"Quantization {name} ({needed / GIB:.1f} GB)", needed
    for shorter_s in _WINDOWS_S:
        if shorter_s < window_s:
            name = names[-1] if weaker else quantization
            needed = omni_memory(name, window_s=shorter_s, **common).needed
            with_4bit = f"Quantization {name} and a " if weaker else "a "
            yield f"{with_4bit}Window of {shorter_s:g} s ({needed / GIB:.1f} GB)", needed


def _described(quantization: str, dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    return name if quantization == "none" else f"{quantization} weights, {name}"
