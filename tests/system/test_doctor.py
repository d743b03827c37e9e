"""The checks of this computer report what is wrong and what to do, and need no package themselves."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections import namedtuple
from dataclasses import asdict
from pathlib import Path

import pytest

from acestep.core.paths import PROJECT
from acestep.system import doctor, installed
from acestep.system.check import INSTALL, Check
from acestep.system.doctor import Requirement, check_packages, diagnose, port_problem, read_requirements

Usage = namedtuple("Usage", "total used free")


def named(name: str, checks: list[Check]) -> Check:
    return next(check for check in checks if check.name == name)


def test_the_checks_need_only_the_standard_library() -> None:
    code = "import acestep.system.installed, acestep.system.select_build; acestep.system.doctor.diagnose()"
    command = [sys.executable, "-S", "-c", code]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, cwd=PROJECT, check=False).returncode == 0


def test_all_checks_pass_here_and_are_json_serializable() -> None:
    checks = diagnose()
    assert {"python", "torch", "gradio", "av", "disk", "models", "ports", "proxy"} <= {check.name for check in checks}
    assert [check for check in checks if not check.ok and check.name != "disk"] == []
    assert json.loads(json.dumps([asdict(check) for check in checks]))


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_line_of_the_requirements_is_parsed(name: str) -> None:
    assert len(read_requirements(PROJECT / name)) >= 6


def test_a_requirement_without_a_pin_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("torch>=2\n")
    with pytest.raises(ValueError, match="torch>=2"):
        read_requirements(tmp_path / "requirements.txt")


def test_requirements_of_other_platforms_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text('a==1  # why\nb==2.*; sys_platform != "darwin"\nc==3; sys_platform == "win32"\n')
    monkeypatch.setattr(sys, "platform", "darwin")
    assert read_requirements(path) == [Requirement("a", "1")]
    monkeypatch.setattr(sys, "platform", "win32")
    assert [requirement.name for requirement in read_requirements(path)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("version", "wanted", "ok"),
    [
        ("2.11.0", "2.11.0", True),
        ("2.11.0+cu130", "2.11.0", True),
        ("2.12.0", "2.11.0", False),
        ("6.31.4", "6.31.*", True),
        ("6.310.0", "6.31.*", False),
        ("0.8", "0.8.*", True),
    ],
)
def test_versions_are_compared_as_pip_does(
    version: str, wanted: str, ok: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: version)
    assert check_packages([Requirement("torch", wanted)])[0].ok is ok


def test_a_missing_package_is_reported_with_a_hint() -> None:
    [check] = check_packages([Requirement("no-such-package", "1.0")])
    assert check == Check("no-such-package", False, "not installed", f"Run {INSTALL}.")


def test_an_unsupported_python_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 13, "final", 0))
    check = doctor.check_python()
    assert not check.ok
    assert "3.11 to 3.13" in check.hint


def test_a_nearly_full_disk_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 10**12 - 10**9, 10**9))
    check = named("disk", diagnose())
    assert (check.ok, check.detail) == (False, "1 GB free")


def test_a_folder_without_write_access_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert doctor.check_writable(tmp_path).ok
    check = doctor.check_writable(tmp_path / "gone")
    assert not check.ok
    assert "gone" in check.detail


def test_ports_in_use_are_reported_but_do_not_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(doctor, "PORTS", (port,))
        check = named("ports", diagnose())
    assert check.ok
    assert str(port) in check.detail
    assert port_problem("127.0.0.1", port) == ""


@pytest.mark.parametrize("name", ["ALL_PROXY", "https_proxy"])
def test_a_socks_proxy_fails(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "socks5://127.0.0.1:9")
    check = named("proxy", diagnose())
    assert not check.ok
    assert name in check.detail


def test_present_models_are_listed(tmp_path: Path) -> None:
    assert "download main" in named("models", diagnose(checkpoints=tmp_path)).detail
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text("{}")
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    assert named("models", diagnose(checkpoints=tmp_path)).detail == "vae"


def test_an_environment_is_installed_until_the_requirements_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "good.txt").write_text("pytest==9.*\n")
    (tmp_path / "bad.txt").write_text("pytest==1.*\n")
    good, bad = str(tmp_path / "good.txt"), str(tmp_path / "bad.txt")
    assert installed.main(["same", good], tmp_path) == 1
    assert installed.main(["verify", good], tmp_path) == 0
    assert installed.main(["same", good], tmp_path) == 0
    assert installed.main(["verify", bad], tmp_path) == 1
    assert "FAILED pytest" in capsys.readouterr().err
    assert installed.main(["same", bad], tmp_path) == 1
    (tmp_path / "good.txt").write_text("pytest==9.2.*\n")
    assert installed.main(["same", good], tmp_path) == 1
