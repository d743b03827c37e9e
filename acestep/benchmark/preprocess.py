"""Throughput of preprocessing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from acestep.benchmark.compare import PLAIN, Round, Speed, alternate
from acestep.benchmark.plain_preprocess import preprocess_plainly
from acestep.benchmark.silent_context import SilentContext
from acestep.preprocessing.builder import preprocess_job
from acestep.preprocessing.configs import PreprocessJob


def bench_preprocessing(
    variants: Mapping[str, PreprocessJob], *, rounds: int, on_round: Callable[[str], None]
) -> list[Speed]:
    """Time preprocessing of the same dataset by each variant, model loading included. The tensors are discarded.

    The variant ``PLAIN`` is computed by ``plain_preprocess``. Raises the errors of ``preprocess_job``.
    """

    def measure(name: str, job: PreprocessJob, is_first_round: bool) -> Round:
        with TemporaryDirectory() as folder:
            start = time.perf_counter()
            temporary_job = job.model_copy(update={"out": Path(folder) / "tensors"})
            if name == PLAIN:
                songs = preprocess_plainly(temporary_job)
            else:
                songs = preprocess_job(temporary_job, SilentContext(Path(folder)))["ready"]
            return Round([time.perf_counter() - start], songs)

    return alternate(variants, measure, rounds=rounds, on_round=on_round)
