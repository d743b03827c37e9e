"""What exists on some systems only, such as ``os.killpg`` or ``signal.SIGKILL``, is used behind a check of the system.

The type checker knows what each system has. It reads the modules alone, without what they import, which takes seconds.
"""

import re
import subprocess
import sys

import pytest

from acestep.core.paths import PROJECT

# The modules of the standard library that differ between systems.
MODULES = "asyncio|ctypes|fcntl|grp|mmap|msvcrt|multiprocessing|os|pty|pwd|resource|select|signal|socket|subprocess|sys"
USES_ONE = re.compile(rf"^\s*(?:import|from) (?:{MODULES}|termios|time|tty|winreg)\b", re.MULTILINE)
OTHER_SYSTEM = {"win32": "import os\nos.killpg(1, 9)\n", "darwin": "import os\nos.startfile('a')\n"}
OPTIONS = ["--follow-imports=skip", "--ignore-missing-imports", "--config-file=", "--no-incremental"]


@pytest.mark.parametrize("system", OTHER_SYSTEM)
def test_nothing_is_used_that_another_system_lacks(system, tmp_path):
    program = [*(PROJECT / "acestep").rglob("*.py"), *(PROJECT / "dev").rglob("*.py"), *PROJECT.glob("*.py")]
    files = [path for path in program if USES_ONE.search(path.read_text("utf-8"))]
    (tmp_path / "unguarded.py").write_text(OTHER_SYSTEM[system])
    command = [sys.executable, "-m", "mypy", "--platform", system, *OPTIONS, *files, tmp_path / "unguarded.py"]
    done = subprocess.run(command, cwd=PROJECT, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8")
    found = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert [line.partition(".py:")[0][-9:] for line in found] == ["unguarded"], done.stdout + done.stderr
    assert len(files) > 50
