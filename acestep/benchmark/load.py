"""Time to load the decoder of a base model."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from acestep.benchmark.compare import PLAIN, Round, Speed, alternate
from acestep.core.errors import ConfigError
from acestep.models.checkpoint import Checkpoint, find_checkpoint
from acestep.models.device import choose_device, choose_dtype, empty_cache
from acestep.models.imports import without_bitsandbytes
from acestep.models.key_mapping import original_to_diffusers
from acestep.models.load import empty_dit, load_dit

with without_bitsandbytes():
    from diffusers.models.transformers.ace_step_transformer import AceStepTransformer1DModel

_DECODER = "decoder."


def bench_loading(
    checkpoint: str | Path, *, plain: bool, device: str, rounds: int, on_round: Callable[[str], None]
) -> list[Speed]:
    """Time ``load_dit`` and, if asked, loading as one writes it first; the file is in the cache of the system.

    Raises:
        ConfigError: ``plain`` with a base model in the layout of diffusers. Others: those of ``load_dit``.
    """
    found = find_checkpoint(checkpoint)
    if plain and found.layout != "original":
        raise ConfigError(
            [f"{found.folder} has the layout of diffusers"], hint="--against plain loads the original layout."
        )
    chosen = choose_device(device).value
    dtype = choose_dtype(chosen).value
    loaders: dict[str, Callable[[Checkpoint, str, torch.dtype], object]] = {"as given": _load}
    loaders |= {PLAIN: _load_plainly} if plain else {}

    def measure(name: str, load: Callable[[Checkpoint, str, torch.dtype], object], is_first_round: bool) -> Round:
        if is_first_round:
            load(found, chosen, dtype)  # reads the file into the cache
        gc.collect()
        empty_cache(chosen)
        start = time.perf_counter()
        loaded = load(found, chosen, dtype)
        if torch.device(chosen).type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        del loaded
        return Round([seconds], songs=1)

    return alternate(loaders, measure, rounds=rounds, on_round=on_round)


def _load(checkpoint: Checkpoint, device: str, dtype: torch.dtype) -> object:
    return load_dit(checkpoint, device=device, dtype=dtype)


def _load_plainly(checkpoint: Checkpoint, device: str, dtype: torch.dtype) -> object:
    """Initialize the module, read all files, copy the weights into it, and move it to the device."""
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(checkpoint.folder.glob("*.safetensors")):
        weights |= load_file(file)
    decoder = {
        original_to_diffusers(name.removeprefix(_DECODER)): weight
        for name, weight in weights.items()
        if name.startswith(_DECODER)
    }
    transformer = AceStepTransformer1DModel.from_config(empty_dit(checkpoint).config)
    transformer.load_state_dict(decoder)
    return transformer.to(device, dtype)
