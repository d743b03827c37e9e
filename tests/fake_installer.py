"""Replaces uv and pip in the tests of install.sh: creates a real venv and installs empty packages.

    fake_installer.py uv venv ... FOLDER            fake_installer.py uv pip install ... -r FILE
    fake_installer.py python -m venv FOLDER         fake_installer.py pip install ... -r FILE

FAKE_LOG is the file that each call is logged to, FAKE_FAIL a package that cannot be installed, FAKE_BROKEN a package
that cannot be imported. FAKE_CUDA=1 makes torch report a GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

MODULES = {"lycoris-lora": "lycoris"}
TORCH = """
class cuda:
    is_available = staticmethod(lambda: {cuda})
    get_device_name = staticmethod(lambda index: "Fake 4090")
class version:
    cuda = "13.0"
class backends:
    class mps:
        is_available = staticmethod(lambda: False)
"""


def main(tool: str, arguments: list[str]) -> int:
    with Path(os.environ["FAKE_LOG"]).open("a") as log:
        log.write(" ".join([tool, *arguments]) + "\n")
    if arguments[0] == "venv" or arguments[:2] == ["-m", "venv"]:
        return make_environment(Path(arguments[-1]))
    for position, argument in enumerate(arguments):
        if argument == "-r":
            install(Path(arguments[position + 1]))
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


def install(requirements: Path) -> None:
    target = site_packages(Path("env"))
    for line in requirements.read_text().splitlines():
        name, _, version = line.partition("#")[0].partition(";")[0].strip().partition("==")
        if not name:
            continue
        if name == os.environ.get("FAKE_FAIL"):
            sys.exit(f"no package {name}")
        info = target / f"{name.replace('-', '_')}-1.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version.replace('*', '7')}\n")
        code = TORCH.format(cuda=os.environ.get("FAKE_CUDA") == "1") if name == "torch" else ""
        code = "raise ImportError('libfake.so: cannot open')" if name == os.environ.get("FAKE_BROKEN") else code
        module = MODULES.get(name, name.replace("-", "_"))
        (target / f"{module}.py").write_text(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
