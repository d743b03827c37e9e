"""What other programs print. Standard library only."""

from __future__ import annotations

import subprocess


def output_lines(command: list[str], *, timeout_s: float = 5) -> list[str]:
    """The lines that a command prints; none if it is missing, fails or times out."""
    try:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in ended.stdout.splitlines() if line.strip()] if ended.returncode == 0 else []
