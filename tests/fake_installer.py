"""Replaces uv and pip in the tests of install.sh: creates a real venv and installs empty packages.

    fake_installer.py uv venv ... FOLDER            fake_installer.py uv pip install ... -r FILE
    fake_installer.py python -m venv FOLDER         fake_installer.py pip install ... -r FILE

FAKE_LOG is the file that each call is logged to, FAKE_FAIL a package that cannot be installed, FAKE_BROKEN a package
that cannot be imported. FAKE_WORKS is the build of PyTorch that can use a GPU; DEVICES answers for it, because the
installed torch is empty.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

MODULES = {"lycoris-lora": "lycoris"}
DEVICES = """
import importlib.metadata, os
def describe_torch(announce):
    build = importlib.metadata.version("torch").partition("+")[2] or "cu130"
    gpu = {"device": "cuda:0", "name": "Fake", "architecture": "", "note": "", "dtype": "", "reason": "", "problem": ""}
    return {
        "torch": "2.11.0+" + build, "cuda": "13.0" if build.startswith("cu") else "", "hip": "", "xpu": "",
        "architectures": [], "problem": "", "cpu": {"dtype": "float32", "reason": ""},
        "devices": [gpu] if build == os.environ.get("FAKE_WORKS") else [],
    }
"""


def main(tool: str, arguments: list[str]) -> int:
    with Path(os.environ["FAKE_LOG"]).open("a") as log:
        log.write(" ".join([tool, *arguments]) + "\n")
    if arguments[0] == "venv" or arguments[:2] == ["-m", "venv"]:
        return make_environment(Path(arguments[-1]))
    if arguments[-1] == "uv":
        return install_uv()
    build = next((argument.partition("=")[2] for argument in arguments if argument.startswith("--torch-backend=")), "")
    for position, argument in enumerate(arguments):
        if argument == "-r":
            install(Path(arguments[position + 1]), build)
    return 0


def make_environment(folder: Path) -> int:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], stdin=subprocess.DEVNULL, check=True)
    pip = site_packages(folder) / "pip"
    pip.mkdir()
    (pip / "__init__.py").touch()
    here = str(Path(__file__).parent)
    (pip / "__main__.py").write_text(
        f"import sys; sys.path.insert(0, {here!r}); import fake_installer; "
        "sys.exit(fake_installer.main('pip', sys.argv[1:]) if sys.argv[1:] != ['--version'] else 0)"
    )
    return 0


def site_packages(folder: Path) -> Path:
    return next(folder.glob("lib/python3*/site-packages"))


def install_uv() -> int:
    if os.environ.get("FAKE_FAIL") == "uv":
        sys.exit("no package uv")
    tool = Path("env/bin/uv")
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" uv "$@"\n')
    tool.chmod(0o755)
    return 0


def install(requirements: Path, build: str) -> None:
    target = site_packages(Path("env"))
    for line in requirements.read_text().splitlines():
        name, _, version = line.partition("#")[0].partition(";")[0].strip().partition("==")
        if not name:
            continue
        if name == os.environ.get("FAKE_FAIL"):
            sys.exit(f"no package {name}")
        info = target / f"{name.replace('-', '_')}-1.dist-info"
        info.mkdir(exist_ok=True)
        version = version.replace("*", "7") + (f"+{build}" if build and name in ("torch", "torchaudio") else "")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        code = "raise ImportError('libfake.so: cannot open')" if name == os.environ.get("FAKE_BROKEN") else ""
        module = MODULES.get(name, name.replace("-", "_"))
        (target / f"{module}.py").write_text(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
