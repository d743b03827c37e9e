"""install.sh and start.sh, run in copies of the project with tools that play uv, pip and the NVIDIA driver."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from acestep.core.paths import PROJECT
from tests.fake_installer import DEVICES

TOOLS = ("bash", "dirname", "readlink", "df", "awk", "rm", "mv", "env")
GTX_1080 = "NVIDIA GeForce GTX 1080, 6.1, 560.35.03"
RTX_4090 = "NVIDIA GeForce RTX 4090, 8.9, 580.65.06"
PRINT_ARGUMENTS = "import sys; print(*sys.argv[1:], sep='|')"


class Copy:
    """A fresh copy of the project, and a PATH with nothing on it but what a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "my project (1)"
        shutil.copytree(PROJECT / "acestep", self.root / "acestep", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("install.sh", "start.sh", "requirements.txt", "requirements-dev.txt"):
            shutil.copy(PROJECT / name, self.root)
        (self.root / "acestep" / "system" / "torch_devices.py").write_text(DEVICES)
        gpus = self.root / "acestep" / "system" / "gpus.py"
        gpus.write_text(gpus.read_text().replace('SYSFS = Path("/sys")', f'SYSFS = Path("{folder / "sys"}")'))
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

    def gpu(self, csv: str) -> None:
        """A driver of NVIDIA; ``csv`` is the name of the GPU, its compute capability and the version of the driver."""
        self.tool("nvidia-smi", f'[ "$1" = --query-gpu=name,compute_cap,driver_version ] && echo "{csv}"')

    def amd_gpu(self, version: int) -> None:
        node = self.root.parent / "sys" / "class" / "kfd" / "kfd" / "topology" / "nodes" / "1"
        node.mkdir(parents=True)
        (node / "properties").write_text(f"gfx_target_version {version}\n")

    def run(
        self, script: str, *arguments: str, cwd: Path | None = None, stdin: int = subprocess.DEVNULL, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        self.log.unlink(missing_ok=True)
        return subprocess.run(
            [str(self.root / script), *arguments],
            cwd=cwd or self.root.parent,
            env={"PATH": str(self.bin), "HOME": str(self.root.parent), "FAKE_LOG": str(self.log), **settings},
            stdin=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    """With uv and without a GPU."""
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


@pytest.fixture
def without_uv(tmp_path: Path) -> Copy:
    """With Python and pip alone."""
    copy = Copy(tmp_path)
    copy.tool("python3.11", "exit 127  # found, but broken, as the shims of pyenv are")
    copy.tool(
        "python3", f'[ "$1" = -c ] && exit 0; exec "{sys.executable}" "{PROJECT}/tests/fake_installer.py" python "$@"'
    )
    return copy


def test_without_uv_venv_and_pip_are_used(without_uv: Copy) -> None:
    result = without_uv.run("install.sh")
    assert result.returncode == 0, result.stderr
    assert "no GPU found" in result.stderr
    assert without_uv.calls() == ["python -m venv env", "pip install -r requirements.txt"]


def test_a_gpu_that_the_default_build_supports_needs_no_other_index(without_uv: Copy) -> None:
    without_uv.gpu(RTX_4090)
    result = without_uv.run("install.sh", FAKE_WORKS="cu130")
    assert result.returncode == 0, result.stderr
    assert "RTX 4090 (compute capability 8.9, driver 580.65.06): PyTorch 2.11.0 for CUDA 13.0 (cu130)" in result.stderr
    assert without_uv.calls()[1:] == ["pip install -r requirements.txt"]


def test_an_older_gpu_gets_its_build_and_uv_is_installed_for_it(without_uv: Copy) -> None:
    without_uv.gpu(GTX_1080)
    result = without_uv.run("install.sh", FAKE_WORKS="cu126")
    assert result.returncode == 0, result.stderr
    assert "for CUDA 12.6 (cu126)" in result.stderr
    assert without_uv.calls()[1:] == [
        "pip install --quiet uv",
        "uv pip install --python env/bin/python -r requirements.txt --torch-backend=cu126",
    ]


def test_an_older_gpu_fails_if_uv_cannot_be_installed(without_uv: Copy) -> None:
    without_uv.gpu(GTX_1080)
    result = without_uv.run("install.sh", FAKE_FAIL="uv")
    assert result.returncode == 1
    assert "pip does not find the build cu126 of PyTorch" in result.stderr
    assert without_uv.calls()[-1] == "pip install --quiet uv"


def test_the_build_for_cpus_is_replaced_by_the_default_one_if_uv_cannot_be_installed(without_uv: Copy) -> None:
    result = without_uv.run("install.sh", "--backend", "cpu", FAKE_FAIL="uv")
    assert result.returncode == 0, result.stderr
    assert "which also computes on the CPU" in result.stderr
    assert without_uv.calls()[-1] == "pip install -r requirements.txt"


def test_a_driver_that_is_too_old_is_reported_before_the_download(copy: Copy) -> None:
    copy.tool("nvidia-smi", '[ "$1" = --query-gpu=name,driver_version ] && echo "Tesla K80, 470.82.01"')
    failed = copy.run("install.sh")
    assert failed.returncode == 1
    assert "the NVIDIA driver 470.82.01 is too old for CUDA 12.6, which needs 525.60.13 or newer" in failed.stderr
    assert "Update the driver" in failed.stderr
    assert "./install.sh --backend cpu" in failed.stderr
    assert not [call for call in copy.calls() if "pip install" in call]

    assert copy.run("install.sh", "--cpu").returncode == 0
    assert copy.calls()[-1].endswith("--torch-backend=cpu")
    assert copy.run("install.sh", "--quick").returncode == 0
    assert not copy.calls()


@pytest.mark.parametrize(("capability", "option"), [("7.0", "cu126"), ("7.5", ""), ("12.0", "")])
def test_uv_is_given_the_build_for_the_compute_capability(capability: str, option: str, copy: Copy) -> None:
    copy.gpu(f"Some GPU, {capability}, 580.65.06")
    assert copy.run("install.sh", FAKE_WORKS=option or "cu130").returncode == 0
    assert copy.calls()[-1].partition(" --torch-backend=")[2] == option


def test_a_driver_between_both_versions_of_cuda_gets_the_older_one(copy: Copy) -> None:
    copy.gpu("NVIDIA GeForce RTX 4090, 8.9, 550.54.14")
    assert copy.run("install.sh", FAKE_WORKS="cu128").returncode == 0
    assert copy.calls()[-1].endswith("--torch-backend=cu128")


def test_a_requested_build_replaces_the_installed_one_in_a_new_environment(copy: Copy) -> None:
    copy.gpu(RTX_4090)
    assert copy.run("install.sh", FAKE_WORKS="cu130").returncode == 0
    assert "--torch-backend" not in copy.calls()[-1]
    result = copy.run("install.sh", "--backend", "cu126", FAKE_WORKS="cu126")
    assert result.returncode == 0, result.stderr
    assert copy.calls()[0].startswith("uv venv")
    assert copy.calls()[1].endswith("--torch-backend=cu126")
    assert copy.run("install.sh", FAKE_WORKS="cu126").returncode == 0
    assert not copy.calls()


@pytest.mark.parametrize("problem", [{"FAKE_FAIL": "gradio"}, {"FAKE_WORKS": "cu130"}])
def test_the_previous_environment_returns_if_another_build_cannot_be_installed(
    problem: dict[str, str], copy: Copy
) -> None:
    copy.gpu(RTX_4090)
    copy.run("install.sh", FAKE_WORKS="cu130")
    result = copy.run("install.sh", "--backend", "cu126", **problem)
    assert result.returncode == 1
    assert "The previous environment was restored" in result.stderr
    assert copy.calls()[-1].endswith("--torch-backend=cu126")
    assert copy.run("install.sh", FAKE_WORKS="cu130").returncode == 0
    assert not copy.calls()
    assert not (copy.root / "env.previous").exists()


def test_an_installation_that_was_interrupted_while_replacing_a_build_can_be_repeated(copy: Copy) -> None:
    copy.gpu(RTX_4090)
    copy.run("install.sh", FAKE_WORKS="cu130")
    shutil.copytree(copy.root / "env", copy.root / "env.previous", symlinks=True)
    result = copy.run("install.sh", "--backend", "cu126", FAKE_WORKS="cu126")
    assert result.returncode == 0, result.stderr
    assert not (copy.root / "env.previous").exists()


def test_a_build_that_fits_is_kept_when_the_requirements_change(copy: Copy) -> None:
    copy.gpu(RTX_4090)
    copy.run("install.sh", "--backend", "cu126", FAKE_WORKS="cu126")
    with (copy.root / "requirements.txt").open("a") as file:
        file.write("brand-new==1.0\n")
    assert copy.run("install.sh", "--quick", FAKE_WORKS="cu126").returncode == 0
    assert copy.calls() == ["uv pip install --python env/bin/python -r requirements.txt --torch-backend=cu126"]


def test_a_gpu_that_torch_cannot_use_fails_unless_cpu_is_requested(copy: Copy) -> None:
    copy.gpu(RTX_4090)
    failed = copy.run("install.sh")
    assert failed.returncode == 1
    assert "FAILED device: PyTorch (built for CUDA 13.0) cannot use NVIDIA GeForce RTX 4090" in failed.stderr
    assert "./install.sh --cpu" in failed.stderr

    assert copy.run("install.sh", "--cpu").returncode == 0
    assert copy.run("install.sh", "--quick").returncode == 0
    assert not copy.calls()


def test_an_amd_gpu_is_asked_for_and_used_without_a_terminal(copy: Copy) -> None:
    copy.amd_gpu(110000)
    result = copy.run("install.sh", FAKE_WORKS="rocm7.2")
    assert result.returncode == 0, result.stderr
    assert "Found AMD GPU (gfx1100). Install the ROCm build of PyTorch? Yes: there is no terminal" in result.stderr
    assert "./install.sh --backend cpu chooses otherwise" in result.stderr
    assert copy.calls()[-1].endswith("--torch-backend=rocm7.2")


@pytest.mark.parametrize(("answer", "build"), [("n", "cpu"), ("", "rocm7.2")])
def test_a_person_decides_about_an_amd_gpu_once(answer: str, build: str, copy: Copy) -> None:
    copy.amd_gpu(110000)
    main, terminal = pty.openpty()
    os.write(main, f"{answer}\n".encode())
    result = copy.run("install.sh", stdin=terminal, FAKE_WORKS="rocm7.2")
    assert result.returncode == 0, result.stderr
    assert "Install the ROCm build of PyTorch? [Y/n]" in result.stderr
    assert copy.calls()[-1].endswith(f"--torch-backend={build}")

    with (copy.root / "requirements.txt").open("a") as file:
        file.write("brand-new==1.0\n")
    again = copy.run("install.sh", stdin=terminal, FAKE_WORKS="rocm7.2")
    assert again.returncode == 0, again.stderr
    assert "[Y/n]" not in again.stderr
    assert copy.calls()[-1].endswith(f"--torch-backend={build}")


def test_an_unknown_build_is_rejected_with_the_known_ones(copy: Copy) -> None:
    result = copy.run("install.sh", "--backend", "cu999")
    assert result.returncode == 1
    assert "there is no build cu999 for this platform" in result.stderr
    assert "cu126, cu128, cu130" in result.stderr
    assert copy.run("install.sh", "--backend").returncode == 1


def test_a_driver_that_does_not_respond_is_ignored(copy: Copy) -> None:
    copy.tool("nvidia-smi", "exit 9")
    assert copy.run("install.sh").returncode == 0
    assert "--torch-backend" not in copy.calls()[1]


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


def test_both_installers_know_the_same_options() -> None:
    for name in ("install.sh", "install.bat"):
        text = (PROJECT / name).read_text()
        known = re.search(r"\(known: ([^)]*)\)", text)
        assert known
        assert known.group(1) == "--dev --backend --cpu --quick"
        described = re.findall(rf"^(?:#|rem) +\S*{name} +(--\w+)", text, re.M)
        assert described == known.group(1).split()


@pytest.mark.parametrize("name", ["install.bat", "start.bat", "tests/run.bat"])
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
        for folder in ("acestep", "tests", ".ci", ".github")
        for path in (PROJECT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    ]
    named = [path.name for path in own if hosts.search(path.read_text("utf-8", errors="ignore"))]
    assert named == []
