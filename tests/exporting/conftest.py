from __future__ import annotations

from pathlib import Path

import pytest

from tests.adapters.conftest import lycoris_settings
from tests.exporting.models import write_checkpoint

__all__ = ["lycoris_settings", "small_checkpoint"]


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer model of the 2B family. Read-only."""
    return write_checkpoint(tmp_path_factory.mktemp("small"))
