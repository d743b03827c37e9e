"""Every kind of adapter x base x optimizer x schedule: trains the tiny model, stops, goes on, and ends the same.

    nice -n 10 env/bin/python -m dev.full_matrix

To the last bit, as in the default test run, which goes through the kinds over the bases and the optimizers with the
schedules alone. The combinations come from the registries; ``--only TEXT`` takes those whose names contain it.
"""

# ruff: noqa: T201 - it talks to the terminal
from __future__ import annotations

import argparse
import itertools
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from acestep.adapters.configs import ADAPTERS
from acestep.training.optim.optimizers import OPTIMIZERS
from acestep.training.optim.schedules import SCHEDULES

STEPS = {"max_epochs": 2, "save_every_n_steps": 1}
"""Four steps on two songs, stopped after the first save."""

Check = Callable[..., None]  # settings by name; raises if something differs


def run_all(only: str, check: Check, bases: dict[str, dict[str, Any]]) -> int:
    """Print a row for each kind and base as it is done; gives how many combinations failed."""
    began, failed, done = time.monotonic(), 0, 0
    print(f"| adapter, base | {' | '.join(OPTIMIZERS.names)} |\n|---|{'---|' * len(OPTIMIZERS.names)}")
    for kind, base in itertools.product(ADAPTERS.names, bases):
        cells = []
        for optimizer in OPTIMIZERS.names:
            names = [f"{kind}, {base}, {optimizer}, {schedule}" for schedule in SCHEDULES.names]
            wanted = [name for name in names if only in name]
            good = sum(_holds(name, check, bases) for name in wanted)
            cells.append(f"{good} of {len(wanted)}")
            done, failed = done + len(wanted), failed + len(wanted) - good
        if any(cell != "0 of 0" for cell in cells):
            print(f"| {kind}, {base} | {' | '.join(cells)} |", flush=True)
    print(f"\n{done} combinations, {failed} failed, {time.monotonic() - began:.0f} s")
    return failed


def _holds(name: str, check: Check, bases: dict[str, dict[str, Any]]) -> bool:
    kind, base, optimizer, schedule = name.split(", ")
    settings = {"adapter_type": kind, "optimizer_type": optimizer, "scheduler_type": schedule}
    try:
        check(**settings, **bases[base], **STEPS)
    except (Exception, pytest.fail.Exception) as problem:  # noqa: BLE001 - the others are tried all the same
        print(f"FAILED {name}: {problem!r}", file=sys.stderr, flush=True)
        return False
    return True


def main() -> int:
    from acestep.models import create_tiny_checkpoint
    from tests.training.runs import tensors_for
    from tests.training.test_matrix import BASES, check

    parser = argparse.ArgumentParser(description="Train and go on with every combination.")
    parser.add_argument("--only", default="")
    only = parser.parse_args().only
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        checkpoint = create_tiny_checkpoint(folder / "tiny")
        tensors = tensors_for(folder / "tensors", checkpoint, [(20, 6), (16, 5)])

        def check_here(**settings: Any) -> None:
            shutil.rmtree(folder / "runs", ignore_errors=True)
            check(tensors, checkpoint, folder / "runs", **settings)

        return min(run_all(only, check_here, BASES), 1)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    warnings.simplefilter("ignore")
    sys.exit(main())
