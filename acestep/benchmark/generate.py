"""Throughput of generation."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from acestep.benchmark.compare import PLAIN, Round, Speed, alternate
from acestep.benchmark.plain_transformer import plain_transformer
from acestep.models.checkpoint import find_checkpoint
from acestep.models.configs import GenerationConfig
from acestep.models.device import choose_device, choose_dtype
from acestep.models.generate import PipelineComponents, generate, load_components


def bench_generation(
    variants: Mapping[str, GenerationConfig],
    checkpoint: str | Path,
    *,
    device: str,
    rounds: int,
    on_round: Callable[[str], None],
) -> list[Speed]:
    """Time the generation of one song by each variant, model loading excluded. ``PLAIN`` uses diffusers' transformer.

    Raises:
        CheckpointError, ConfigError: those of ``load_components`` and ``choose_device``.
    """
    chosen = choose_device(device).value
    dtype = choose_dtype(chosen).value
    components = load_components(find_checkpoint(checkpoint), device=chosen, dtype=dtype)
    ours: Any = components.dit
    transformers = {True: plain_transformer(ours), False: ours} if PLAIN in variants else {False: ours}

    def measure(name: str, request: GenerationConfig, is_first_round: bool) -> Round:
        components.dit = transformers[name == PLAIN]
        if is_first_round:
            _seconds(components, request)  # loads kernels and fills caches
        return Round([_seconds(components, request)], songs=1)

    return alternate(variants, measure, rounds=rounds, on_round=on_round)


def _seconds(components: PipelineComponents, request: GenerationConfig) -> float:
    with torch.random.fork_rng(devices=[]):
        start = time.perf_counter()
        generate(components, request)  # its audio is on the CPU: nothing is left to wait for
        return time.perf_counter() - start
