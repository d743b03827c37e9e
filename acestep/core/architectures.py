"""On which NVIDIA GPUs compiled code runs. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Iterable


def runs_on(architectures: Iterable[str], capability: str) -> bool:
    """Whether machine code (``sm_86``) or PTX (``compute_90``) of a build runs on a compute capability (``8.9``).

    Machine code runs on the same major version with the same or a higher minor version; with the suffix a only on
    exactly its architecture. PTX is compiled by the driver for every newer GPU.
    Source: https://docs.nvidia.com/cuda/pascal-compatibility-guide/
    """
    major, minor = (int(part) for part in capability.split("."))
    for kind, high, low, suffix in re.findall(r"\b(sm|compute)_(\d+)(\d)([af]?)\b", " ".join(architectures)):
        first = (int(high), int(low))
        if suffix == "a":
            fits = first == (major, minor)
        else:
            fits = first <= (major, minor) and (first[0] == major or (kind == "compute" and not suffix))
        if fits:
            return True
    return False
