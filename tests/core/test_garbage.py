"""Garbage collection is paused during imports and never left off."""

import gc

import pytest

from acestep.core.garbage import garbage_collection_paused


@garbage_collection_paused()
def _failing_import() -> None:
    assert not gc.isenabled()
    raise ImportError


def test_garbage_collection_goes_on_after_an_error():
    with pytest.raises(ImportError):
        _failing_import()
    assert gc.isenabled()


def test_a_pause_inside_another_one_does_not_end_it():
    with garbage_collection_paused():
        with garbage_collection_paused():
            pass
        assert not gc.isenabled()
