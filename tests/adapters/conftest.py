from __future__ import annotations

from collections.abc import Iterator

import pytest
from lycoris import LycorisNetwork


@pytest.fixture
def lycoris_settings() -> Iterator[None]:
    """Restore the class attributes of LyCORIS, which tests change."""
    before = {name: value for name, value in vars(LycorisNetwork).items() if name.isupper()}
    yield
    for name, value in before.items():
        setattr(LycorisNetwork, name, value)
