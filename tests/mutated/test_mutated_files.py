"""Any mutated file gives a value or an AceStepError. ``python -m dev.mutate_files`` repeats this at length."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.mutated.readers import READERS, Readable

EXAMPLES = 6


@pytest.mark.parametrize("name", READERS)
def test_a_mutated_file_gives_a_value_or_an_error(name: str, tmp_path: Path, tiny_root: Path) -> None:
    readable = Readable(READERS[name], tmp_path / "files", tiny_root)

    @settings(
        max_examples=2 if name.startswith("exported") else EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**32 - 1))
    def check(seed: int) -> None:
        readable.check(Random(f"{name} {seed}"))

    check()
