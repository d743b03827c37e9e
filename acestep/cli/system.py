"""The command that checks this computer: doctor."""

from __future__ import annotations

import typer

from acestep.cli.console import Json, print_json, print_status

commands = typer.Typer()


@commands.command()
def doctor(json_output: Json = False) -> None:
    """Check this computer: Python, packages, device, disk space, models."""
    from acestep.system.doctor import diagnose

    checks = diagnose(deep=True)
    for check in checks:
        line = f"{'ok  ' if check.ok else 'FAIL'} {check.name}: {check.detail} {'' if check.ok else check.hint}"
        print_status(line.rstrip())
    ok = all(check.ok for check in checks)
    if json_output:
        print_json({"ok": ok, "checks": {c.name: {"ok": c.ok, "detail": c.detail, "hint": c.hint} for c in checks}})
    raise typer.Exit(0 if ok else 1)
