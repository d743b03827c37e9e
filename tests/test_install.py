"""install.sh and start.sh, run in copies of the project with tools that play uv, pip and the NVIDIA driver."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from acestep.core.paths import PROJECT

TOOLS = ("bash", "dirname", "readlink", "df", "awk", "rm", "env")
PRINT_ARGUMENTS = "import sys; print(*sys.argv[1:], sep='|')"


class Copy:
    """A fresh copy of the project, and a PATH with nothing on it but what a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "my project (1)"
        shutil.copytree(PROJECT / "acestep", self.root / "acestep", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("install.sh", "start.sh", "requirements.txt", "requirements-dev.txt"):
            shutil.copy(PROJECT / name, self.root)
        (self.root / "launch.py").write_text(PRINT_ARGUMENTS)
        (self.root / "acestep" / "__main__.py").write_text(PRINT_ARGUMENTS)
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.log = folder / "log"
        for name in TOOLS:
            (self.bin / name).symlink_to(str(shutil.which(name)))

    def tool(self, name: str, script: str) -> None:
        (self.bin / name).write_text(f"#!{shutil.which('bash')}\n{script}\n")
        (self.bin / name).chmod(0o755)

    def fake(self, name: str, play: str) -> None:
        self.tool(name, f'exec "{sys.executable}" "{PROJECT / "tests" / "fake_installer.py"}" {play} "$@"')

    def run(
        self, script: str, *arguments: str, cwd: Path | None = None, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        self.log.unlink(missing_ok=True)
        return subprocess.run(
            [str(self.root / script), *arguments],
            cwd=cwd or self.root.parent,
            env={"PATH": str(self.bin), "HOME": str(self.root.parent), "FAKE_LOG": str(self.log), **settings},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    """With uv and without an NVIDIA card."""
    copy = Copy(tmp_path)
    copy.fake("uv", "uv")
    return copy


def test_a_fresh_folder_is_installed_and_the_second_run_only_checks(copy: Copy) -> None:
    first = copy.run("install.sh")
    assert first.returncode == 0, first.stderr
    venv, install = copy.calls()
    assert venv.endswith("env")
    assert install == "uv pip install --python env/bin/python -r requirements.txt"

    start = time.monotonic()
    second = copy.run("install.sh")
    assert second.returncode == 0
    assert "Everything is installed" in second.stderr
    assert not copy.calls()
    assert time.monotonic() - start < 5


def test_test_packages_are_installed_without_changing_the_others(copy: Copy) -> None:
    assert copy.run("install.sh", "--dev").returncode == 0
    assert copy.calls()[1].endswith("-r requirements.txt -r requirements-dev.txt")
    assert copy.run("install.sh").returncode == 0
    assert not copy.calls()


def test_new_requirements_are_installed(copy: Copy) -> None:
    copy.run("install.sh")
    with (copy.root / "requirements.txt").open("a") as file:
        file.write("brand-new==1.0\n")
    assert copy.run("install.sh", "--quick").returncode == 0
    assert [call for call in copy.calls() if "pip install" in call]


def test_a_missing_package_is_reported_and_reinstalled(copy: Copy) -> None:
    copy.run("install.sh")
    shutil.rmtree(next(copy.root.glob("env/lib/*/site-packages/peft-1.dist-info")))
    again = copy.run("install.sh")
    assert again.returncode == 0
    assert "FAILED peft: not installed" in again.stderr
    assert copy.calls()


def test_a_package_that_cannot_be_imported_is_reported_with_its_error(copy: Copy) -> None:
    result = copy.run("install.sh", FAKE_BROKEN="soundfile")
    assert result.returncode == 1
    assert "importing soundfile failed: ImportError: libfake.so: cannot open" in result.stderr


def test_a_failed_installation_is_reported_and_retried(copy: Copy) -> None:
    failed = copy.run("install.sh", FAKE_FAIL="gradio")
    assert failed.returncode == 1
    assert "no package gradio" in failed.stderr
    assert "Installation failed" in failed.stderr
    assert copy.run("install.sh").returncode == 0
    assert copy.calls() == ["uv pip install --python env/bin/python -r requirements.txt"]


def test_with_an_nvidia_driver_the_matching_torch_build_is_requested(copy: Copy) -> None:
    copy.tool("nvidia-smi", "exit 0")
    assert copy.run("install.sh", FAKE_CUDA="1").returncode == 0
    assert "--torch-backend=auto" in copy.calls()[1]


def test_a_driver_that_torch_cannot_use_fails_unless_cpu_is_requested(copy: Copy) -> None:
    copy.tool("nvidia-smi", "exit 0")
    failed = copy.run("install.sh")
    assert failed.returncode == 1
    assert "FAILED device" in failed.stderr
    assert "Update the NVIDIA driver" in failed.stderr

    assert copy.run("install.sh", "--cpu").returncode == 0
    assert copy.run("install.sh", "--quick").returncode == 0
    assert not copy.calls()


def test_a_driver_that_does_not_respond_is_ignored(copy: Copy) -> None:
    copy.tool("nvidia-smi", "exit 9")
    assert copy.run("install.sh").returncode == 0
    assert "--torch-backend" not in copy.calls()[1]


def test_without_uv_venv_and_pip_are_used(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    copy.tool("python3.11", "exit 127  # found, but broken, as the shims of pyenv are")
    copy.tool(
        "python3", f'[ "$1" = -c ] && exit 0; exec "{sys.executable}" "{PROJECT}/tests/fake_installer.py" python "$@"'
    )
    result = copy.run("install.sh")
    assert result.returncode == 0, result.stderr
    assert copy.calls() == ["python -m venv env", "pip install -r requirements.txt"]


def test_an_old_python_is_reported_with_a_hint(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    copy.tool("python3", '[ "$1" = --version ] && echo Python 3.10.13; exit 1')
    result = copy.run("install.sh")
    assert result.returncode == 1
    assert "Python 3.11, 3.12 or 3.13 is required, found Python 3.10.13" in result.stderr
    assert "apt install python3.11" in result.stderr
    assert not (copy.root / "env").exists()


def test_too_little_disk_space_is_reported_first(copy: Copy) -> None:
    (copy.bin / "df").unlink()
    copy.tool("df", "echo head; echo /dev/x 100 99 1000000 99% /")
    result = copy.run("install.sh")
    assert result.returncode == 1
    assert "8 GB" in result.stderr
    assert not copy.calls()


def test_an_unrelated_folder_named_env_is_not_deleted(copy: Copy) -> None:
    (copy.root / "env").mkdir()
    (copy.root / "env" / "precious").touch()
    assert copy.run("install.sh").returncode == 1
    assert (copy.root / "env" / "precious").exists()


def test_an_environment_without_python_is_recreated(copy: Copy) -> None:
    copy.run("install.sh")
    (copy.root / "env" / "bin" / "python").unlink()
    assert copy.run("install.sh").returncode == 0
    assert copy.calls()[0].startswith("uv venv")


def test_an_unknown_option_is_rejected(copy: Copy) -> None:
    result = copy.run("install.sh", "--gpu")
    assert result.returncode == 2
    assert "--gpu" in result.stderr


def test_start_installs_and_passes_its_arguments_to_launch(copy: Copy, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(copy.root / "start.sh")
    result = copy.run("../link", "--mode", "both", "--auth", "a b:c", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "--mode|both|--auth|a b:c\n"


def test_start_demo_runs_the_demo_with_the_other_arguments(copy: Copy) -> None:
    result = copy.run("start.sh", "--demo", "--json", "--workdir", "my demo")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "demo|--json|--workdir|my demo\n"


def test_start_exits_if_the_installation_fails(copy: Copy) -> None:
    result = copy.run("start.sh", FAKE_FAIL="torch")
    assert result.returncode == 1
    assert result.stdout == ""


@pytest.mark.parametrize("name", ["install.bat", "start.bat"])
def test_every_jump_of_a_batch_file_has_a_target(name: str) -> None:
    text = (PROJECT / name).read_text()
    jumps = set(re.findall(r"\b(?:goto|call) :?(\w+)(?![\w.])", text))
    assert jumps <= set(re.findall(r"^:(\w+)", text, re.M))


def test_no_file_names_the_host_of_a_package_registry() -> None:
    hosts = re.compile(
        "|".join(["pypi" + r"\.org", "python" + "hosted", "npm" + "js", "download" + r"\.pytorch", "debian" + r"\.org"])
    )
    own = [path for path in PROJECT.iterdir() if path.is_file()]
    own += [
        path
        for folder in ("acestep", "tests", ".ci")
        for path in (PROJECT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    ]
    named = [path.name for path in own if hosts.search(path.read_text("utf-8", errors="ignore"))]
    assert named == []
