"""For the install scripts: was this environment installed from these files, and does it work?

    python -m acestep.system.installed same FILE...
        Exit 0 if nothing changed since the last successful ``verify``.
    python -m acestep.system.installed verify [--full] [--cpu] FILE...
        Check the environment now; print what fails and how to fix it.

Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from pathlib import Path

from acestep.core.paths import PROJECT
from acestep.system.check import Check
from acestep.system.device_check import MORE_IMPORTS, QUICK_IMPORTS, check_imports
from acestep.system.doctor import check_packages, check_python, read_requirements

_STAMP = "acestep-installed.json"


def main(argv: list[str], environment: Path | None = None) -> int:
    """Run one of the two commands and return its exit code. ``environment`` is the folder of the venv."""
    stamp = (environment or Path(sys.prefix)) / _STAMP
    command, *rest = argv
    files = [PROJECT / name for name in rest if not name.startswith("--")]
    if command == "same":
        return 0 if _recorded(stamp).items() >= _facts(files).items() else 1
    failed = _failed_checks(files, full="--full" in rest, cpu="--cpu" in rest)
    for check in failed:
        sys.stderr.write(f"FAILED {check.name}: {check.detail}\n       {check.hint}\n")
    if not failed:
        stamp.write_text(json.dumps(_recorded(stamp) | _facts(files)), encoding="utf-8")
    return 1 if failed else 0


def _failed_checks(files: list[Path], *, full: bool, cpu: bool) -> list[Check]:
    checks = [check_python()]
    for file in files:
        checks += check_packages(read_requirements(file))
    if all(check.ok for check in checks):
        checks += check_imports(QUICK_IMPORTS + (MORE_IMPORTS if full else ()))
    return [check for check in checks if not check.ok and not (cpu and check.name == "device")]


def _facts(files: list[Path]) -> dict[str, str]:
    hashes = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return {"python": platform.python_version(), **hashes}


def _recorded(stamp: Path) -> dict[str, str]:
    try:
        data = json.loads(stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
