"""The estimate of memory against the bytes of live tensors, over many settings; and for the 2B decoder at full size.

    env/bin/python -m dev.measure_memory grid            some minutes on one thread
    env/bin/python -m dev.measure_memory full bf16 1     one full-size run: base, and every n-th layer again (0: none)
    env/bin/python -m dev.measure_memory shapes lora 2b  full-size tensors without values, and what a GPU reserves

A full-size run takes up to 10 GB and a few minutes, ``shapes`` 1 GB and some minutes. Outside the default test run.
"""

# ruff: noqa: T201 - it talks to the terminal
from __future__ import annotations

import itertools
import logging
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from acestep.adapters.configs import ADAPTERS, AdapterConfig, LoHaConfig, LoKRConfig, LoRAConfig
from acestep.core.config import parse
from acestep.training.memory.estimate import GIB, PROGRAM, estimate
from acestep.training.memory.spec import FAMILIES, MemorySpec
from acestep.training.optim.optimizers import OPTIMIZERS
from dev.measure_shapes import measure_shapes
from tests.training.memory.measured_runs import SMALL, SMALL_XL, measure

ALLOWED = 0.10


def grid() -> Iterator[tuple[str, MemorySpec]]:
    """Sweeps, each over a few settings together."""
    yield from _sizes()
    yield from _kinds()
    yield from _rest()


def _run(**settings: Any) -> MemorySpec:
    given = {"config": SMALL, "kind": "lora", "adapter": LoRAConfig(r=16), "frames": 300, "tokens": 60, "device": "cpu"}
    return MemorySpec(**{**given, **settings})


def _sizes() -> Iterator[tuple[str, MemorySpec]]:
    """Width, depth, length, batch and checkpointing."""
    for width, depth, frames, batch, every in itertools.product((128, 384), (2, 10), (100, 1500), (1, 3), (0, 1, 2)):
        config = {**SMALL, "hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": depth}
        config |= {"num_attention_heads": width // 64, "num_key_value_heads": width // 128, "head_dim": 64}
        name = f"width {width}, depth {depth}, {batch} x {frames} frames, again {every}"
        yield name, _run(config=config, frames=frames, batch_size=batch, checkpoint_every=every, padded=batch > 1)


def _kinds() -> Iterator[tuple[str, MemorySpec]]:
    """Every kind of adapter over every base, on every target."""
    for entry, base, attention, mlp, every in itertools.product(
        ADAPTERS, ("fp32", "bf16", "int8", "nf4"), ("both", "self", "cross"), (False, True), (0, 1)
    ):
        config = parse(entry.config, {} if entry.name == "lokr" else {"r": 8})
        compute = "fp32" if base == "fp32" else "bf16"
        name = f"{entry.name}, {base}, {attention}{' and MLP' if mlp else ''}, again {every}"
        settings: dict[str, Any] = {"attention_type": attention, "train_mlp": mlp, "checkpoint_every": every}
        yield name, _run(kind=entry.name, adapter=config, base=base, compute=compute, frames=160, **settings)


def _rest() -> Iterator[tuple[str, MemorySpec]]:
    """Optimizers, gathered batches and averages; then what belongs to one kind, and the other family."""
    for entry, rank, gathered, ema in itertools.product(OPTIMIZERS, (8, 128), (1, 2), (False, True)):
        name = f"{entry.name}, rank {rank}, {gathered} batches{', average' if ema else ''}"
        adapter = LoRAConfig(r=rank)
        yield name, _run(optimizer=entry.name, adapter=adapter, accumulation=gathered, ema=ema, frames=100)
    for every, base in itertools.product((0, 1, 3), ("bf16", "nf4")):
        yield f"XL, {base}, again {every}", _run(config=SMALL_XL, base=base, checkpoint_every=every)
    for dropout, every in itertools.product((0.0, 0.1), (0, 1)):
        variants: tuple[tuple[str, AdapterConfig], ...] = (
            ("lora", LoRAConfig(r=8, init="pissa", dropout=dropout)),
            ("lokr", LoKRConfig(linear_dim=4, factor=8, decompose_both=True, dropout=dropout)),
            ("loha", LoHaConfig(r=4, dropout=dropout)),
        )
        for kind, config in variants:
            for compute in ("fp32", "bf16"):
                name = f"{kind} variant, {compute}, dropout {dropout}, again {every}"
                yield name, _run(kind=kind, adapter=config, base=compute, compute=compute, checkpoint_every=every)


def compare(specs: Iterator[tuple[str, MemorySpec]]) -> int:
    """Print a row for each, and how wrong they are; gives how many are too wrong."""
    print("| run | measured MB | estimated MB | off |\n|---|---|---|---|")
    errors = []
    for name, spec in specs:
        measured, expected = measure(spec).peak, estimate(spec).tensors
        errors.append(expected / measured - 1)
        print(f"| {name} | {measured / 1e6:.2f} | {expected / 1e6:.2f} | {errors[-1]:+.1%} |", flush=True)
    wrong = sum(abs(error) > ALLOWED for error in errors)
    mean = sum(map(abs, errors)) / len(errors)
    print(f"\n{len(errors)} runs: {min(errors):+.1%} to {max(errors):+.1%}, {mean:.1%} on average, {wrong} too wrong")
    return wrong


def full_size(base: str, every: int) -> int:
    """One run of the 2B decoder: rank 64, 60 s, 300 tokens, AdamW."""
    compute = "fp32" if base == "fp32" else "bf16"
    adapter = LoRAConfig(r=64)
    settings: dict[str, Any] = {"frames": 1500, "tokens": 300, "base": base, "compute": compute}
    spec = _run(config=FAMILIES["2b"], adapter=adapter, checkpoint_every=every, **settings)
    began = [time.monotonic()]

    def ready() -> None:
        began.append(time.monotonic())
        Path("/proc/self/clear_refs").write_text("5")  # the highest use of memory is counted from here on

    measured, expected = measure(spec, ready), estimate(spec)
    seconds = time.monotonic() - began[-1]
    highest = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert highest is not None
    off = expected.tensors / measured.peak - 1
    print(f"base {base}, again {every}: {seconds:.0f} s")
    print(f"live tensors: loaded {measured.loaded / GIB:.2f}, between steps {measured.resting / GIB:.2f}, ", end="")
    print(f"peak {measured.peak / GIB:.2f}, estimated {expected.tensors / GIB:.2f} GB ({off:+.1%})")
    print(f"resident memory: {int(highest[1]) * 1024 / GIB:.2f}, estimated {expected.total / GIB:.2f} GB")
    print(", ".join(f"{name} {size / GIB:.2f}" for name, size in expected.parts.items()), flush=True)
    return int(abs(off) > ALLOWED)


def shapes(kind: str, family: str) -> int:
    """Crops of 30 to 240 s at full size, with and without padding, masks in the fused kernel and checkpointing.

    Prints how far the estimate is above the live tensors, that for a GPU above what its allocator reserves, and the
    bytes that the forward pass keeps for the backward pass.
    """
    config = parse(ADAPTERS[kind].config, {"dropout": 0.0} | ({} if kind == "lokr" else {"r": 64}))
    wrong = 0
    for compute, scores, frames, every, padded in itertools.product(
        ("bf16", "fp32"), ("", "masked"), (750, 1500, 3000, 6000), (0, 2, 1), (False, True)
    ):
        spec = _run(
            config=FAMILIES[family],
            kind=kind,
            adapter=config,
            base=compute,
            compute=compute,
            frames=frames,
            tokens=512,
            checkpoint_every=every,
            padded=padded,
            batch_size=2 if padded else 1,
        )
        measured = measure_shapes(spec, scores)
        with mock.patch.object(MemorySpec, "_scores", scores):
            here, gpu = estimate(spec), estimate(replace(spec, device="cuda"))
        expected = here.tensors - here.parts["optimizer"]
        reserved = gpu.total - gpu.parts["optimizer"] - PROGRAM["cuda"]
        off = expected / measured.peak - 1
        wrong += not -0.001 <= off <= 0.06
        name = f"{compute}, {frames / 25:g} s, again {every}{', padded' if padded else ''} {scores}"
        print(
            f"{name:36} tensors {measured.peak / GIB:6.2f} GB, estimated {off:+.1%}; "
            f"reserved {measured.reserved / GIB:6.2f} GB, estimated {reserved / measured.reserved - 1:+.1%}; "
            f"kept after the forward pass {measured.kept / GIB:6.2f} GB",
            flush=True,
        )
    return wrong


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    if sys.argv[1:2] == ["full"]:
        sys.exit(full_size(sys.argv[2], int(sys.argv[3])))
    if sys.argv[1:2] == ["shapes"]:
        sys.exit(min(shapes(sys.argv[2], sys.argv[3]), 1))
    sys.exit(min(compare(grid()), 1))
