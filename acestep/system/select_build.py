"""For the install scripts: which build of PyTorch does this computer need?

    python -m acestep.system.select_build [--backend NAME] [--cpu]

Prints one line for the script on stdout, ``BUILD TOOL ACTION``: the value of uv's ``--torch-backend``; ``any`` if the
package index serves this build by default, so that pip can install it, or ``uv``; ``keep`` or ``replace`` the
installed one. Prints the reason, and asks, on stderr. Exit code 1: no build fits, or its driver is too old; with
``--cpu``, the build for CPUs is chosen instead.

Standard library only, and nothing has to be installed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys

from acestep.system.check import INSTALL
from acestep.system.gpus import Gpu, find_gpus, this_platform
from acestep.system.torch_builds import BUILDS, DEFAULT, TORCH, Choice, choose_build, driver_problem, serves


def main(argv: list[str]) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="select_build")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args(argv)
    platform = this_platform()
    installed = installed_build(platform)
    gpus = find_gpus(platform)
    if options.backend == "auto":
        choice = _asked(choose_build(gpus, platform, installed))
    else:
        choice = check_requested(options.backend, gpus, platform)
    if choice.problem and options.cpu and "cpu" in BUILDS[platform]:
        _say(choice.problem)
        choice = Choice("cpu", f"as requested: PyTorch {TORCH} for CPUs")
    if choice.problem:
        hint = (
            f"{choice.hint} To install PyTorch for CPUs: {INSTALL} --backend cpu" if BUILDS[platform] else choice.hint
        )
        _say(f"{choice.problem}.\n{hint}")
        return 1
    _say(choice.reason)
    for gpu in choice.unused:
        _say(f"This build does not support {gpu}")
    tool = "any" if choice.build == DEFAULT[platform] else "uv"
    action = "keep" if installed in ("", choice.build) else "replace"
    sys.stdout.write(f"{choice.build} {tool} {action}\n")
    return 0


def installed_build(platform: str) -> str:
    """The build of the installed torch, from its version such as ``2.11.0+cu126``; "" if it is not installed."""
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return ""
    return version.partition("+")[2] or DEFAULT.get(platform, "")


def check_requested(build: str, gpus: list[Gpu], platform: str) -> Choice:
    """The build that was requested by name, with what speaks against it for the GPUs that were found."""
    if build not in BUILDS[platform]:
        known = ", ".join(["auto", *BUILDS[platform]])
        return Choice("", problem=f"there is no build {build} for this platform", hint=f"Known: {known}.")
    driver = next((gpu.driver for gpu in gpus if gpu.vendor == "nvidia"), "")
    if problem := driver_problem(build, driver, platform):
        return Choice("", problem=problem, hint="Update the NVIDIA driver, or choose another build.")
    unused = tuple(gpu for gpu in gpus if not serves(build, gpu, platform)) if build != "cpu" else ()
    return Choice(build, f"as requested: the build {build} of PyTorch {TORCH}", unused=unused)


def _asked(choice: Choice) -> Choice:
    """``choice``, or the build for CPUs if a person says no. Without a terminal the GPU is used, as if by Enter."""
    if not choice.question:
        return choice
    if not sys.stdin.isatty():
        _say(f"{choice.question} Yes: there is no terminal to ask on; {INSTALL} --backend cpu chooses otherwise")
        return choice
    sys.stderr.write(f"{choice.question} [Y/n] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() in ("n", "no"):
        return Choice("cpu", f"as requested: PyTorch {TORCH} for CPUs")
    return choice


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
