from __future__ import annotations

import pytest

from acestep.core.architectures import runs_on


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        ("sm_75 sm_86", "7.5", True),
        ("sm_86", "8.9", True),  # same major version
        ("sm_86", "8.0", False),  # a lower minor version
        ("sm_86", "9.0", False),  # another major version
        ("sm_60", "6.1", True),
        ("sm_75 sm_80", "7.0", False),
        ("sm_120", "12.1", True),
        ("sm_120", "10.0", False),
        ("compute_90", "12.0", True),  # compiled by the driver
        ("compute_90", "8.9", False),
        ("sm_90a", "9.0", True),
        ("sm_100a", "10.3", False),
        ("sm_100f", "10.3", True),
        ("compute_100f", "12.0", False),
        ("", "8.0", False),
    ],
)
def test_code_runs_on_its_own_and_on_compatible_architectures(architectures: str, capability: str, runs: bool) -> None:
    assert runs_on(architectures.split(), capability) is runs
