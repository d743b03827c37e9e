"""Each layer registers its own jobs."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import acestep.ui.jobs  # noqa: F401 - registers every job
from acestep.core.config import Config
from acestep.core.jobs import JOBS, register_job
from acestep.core.paths import PROJECT

NAMES = ["caption", "compare", "download", "encode", "estimate", "generate", "merge", "preprocess", "prove", "train"]


def test_every_job_is_registered_with_its_configuration() -> None:
    assert {*NAMES} <= JOBS.keys()
    assert all(issubclass(pkgutil.resolve_name(JOBS[name].config), Config) for name in NAMES)


def test_a_job_is_registered_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        register_job("train", config="a:B", run="a:b")


def test_the_core_names_no_job_of_another_layer() -> None:
    modules = {*(PROJECT / "acestep" / "core").glob("*.py")}
    for path in modules - {PROJECT / "acestep" / "core" / "registry.py"}:  # its docstring shows an example
        assert not [
            layer for layer in ("acestep.training", "acestep.captioning", "acestep.ui") if layer in path.read_text()
        ]


def test_a_process_of_a_job_finds_the_jobs_of_the_pages(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(
        '{"kind": "job", "version": 1, "job": "download", "config": {"names": ["nothing"], "root": "."}}'
    )
    command = [sys.executable, "-m", "acestep", "run", str(tmp_path)]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended.stderr
    assert "nothing" in ended.stderr
    assert "unknown job" not in ended.stderr
