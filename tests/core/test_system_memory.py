"""The free memory of this computer."""

from acestep.core.system_memory import free_bytes


def test_the_memory_of_this_computer_is_known() -> None:
    free = free_bytes()
    assert free is not None
    assert free > 50 * 2**20
