"""Garbage collection is paused during imports and never left off."""

import gc

import pytest

from acestep.core.garbage import garbage_collection_paused


def test_garbage_collection_goes_on_after_the_block_also_after_an_error():
    with pytest.raises(ImportError), garbage_collection_paused():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()


def test_a_pause_inside_another_one_does_not_end_it():
    with garbage_collection_paused():
        with garbage_collection_paused():
            pass
        assert not gc.isenabled()
