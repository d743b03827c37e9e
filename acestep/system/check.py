"""The result of a check, and the names that messages of the checks refer to. Standard library only."""

from __future__ import annotations

import os
from dataclasses import dataclass

INSTALL = "install.bat" if os.name == "nt" else "./install.sh"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check. ``hint`` says what to do if it is not ``ok``."""

    name: str
    ok: bool
    detail: str
    hint: str = ""
