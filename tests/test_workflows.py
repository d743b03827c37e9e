"""The workflows run the commands that the documents give to users, on each system, with no more rights than needed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from acestep.core.paths import PROJECT

WORKFLOWS = sorted((PROJECT / ".github" / "workflows").glob("*.yml"))
COMMANDS = {
    "ubuntu": ["./install.sh --dev", "./start.sh --demo", "tests/run.sh"],
    "macos": ["./install.sh --dev", "./start.sh --demo", "tests/run.sh"],
    "windows": ["call install.bat --dev", "call start.bat --demo", "call tests\\run.bat"],
}


def jobs() -> list[tuple[str, dict[str, Any]]]:
    return [(name, job) for path in WORKFLOWS for name, job in read(path)["jobs"].items()]


def read(path: Path) -> dict[Any, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def systems(job: dict[str, Any]) -> list[str]:
    """The images that a job runs on: one, or those of its matrix."""
    named = re.fullmatch(r"\$\{\{ matrix\.(\w+) \}\}", job["runs-on"])
    return job["strategy"]["matrix"][named.group(1)] if named else [job["runs-on"]]


def commands(job: dict[str, Any]) -> list[str]:
    return [step["run"].strip() for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("system", sorted(COMMANDS))
def test_each_system_installs_runs_the_demo_and_the_tests(system: str) -> None:
    found = [job for _, job in jobs() if any(image.startswith(f"{system}-") for image in systems(job))]
    assert [commands(job) for job in found] == [COMMANDS[system]]


def test_every_script_that_is_run_exists_and_its_options_are_known() -> None:
    for command in (command for _, job in jobs() for command in commands(job)):
        script, *options = command.removeprefix("call ").replace("\\", "/").split()
        assert (PROJECT / script).is_file()
        assert all(option in (PROJECT / script).read_text(encoding="utf-8") for option in options)


@pytest.mark.parametrize(("name", "job"), jobs())
def test_actions_are_pinned_to_a_commit_and_jobs_end(name: str, job: dict[str, Any]) -> None:
    for step in job["steps"]:
        assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", step.get("uses", "actions/run@" + "0" * 40)), step
        assert step.get("with", {}).get("persist-credentials", False) is False
    assert 10 <= job["timeout-minutes"] <= 120
    assert not any(image.endswith("-latest") for image in systems(job))
    assert "permissions" not in job


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_only_read_the_repository(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert set(workflow[True]) == {"push", "pull_request", "workflow_dispatch"}  # YAML reads the key "on" as true
    assert "secrets." not in path.read_text(encoding="utf-8")


def test_matrices_contain_the_oldest_and_the_newest_python() -> None:
    versions = {version for _, job in jobs() for version in job.get("strategy", {}).get("matrix", {}).get("python", [])}
    assert versions == {"3.11", "3.13"}
