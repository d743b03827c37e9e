"""What tests of every part share: the tiny checkpoints, made once a session."""

from __future__ import annotations

import gc
import os
import re
from pathlib import Path

import pytest

# Windows has no bash, named pipes or signals that kill.
collect_ignore = [
    "test_install.py",
    "test_launch.py",
    "system/test_gpus.py",
    "training/distributed/test_devices.py",
    "training/test_drill.py",
]
collect_ignore = collect_ignore if os.name == "nt" else []
POSIX_TESTS = (
    re.compile(r"_fifo_|pipe\.wav|test_a_killed_run_leaves|test_a_run_killed_twice") if os.name == "nt" else None
)

# The slowest files start first: pytest-xdist gives whole files to two processes, and none should start one at the end.
SLOWEST = (
    "ui/test_trainer_page",
    "ui/test_captioner_page",
    "ui/test_song_editing_page",
    "ui/test_typed_text",
    "ui/test_listeners",
    "training/distributed/test_devices",
    "training/test_resume",
    "test_demo",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    deselected = [item for item in items if POSIX_TESTS and POSIX_TESTS.search(item.nodeid)]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if item not in deselected]

    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(Path(__file__).parent).with_suffix("").as_posix()
        return SLOWEST.index(name) if name in SLOWEST else len(SLOWEST)

    items.sort(key=place)  # stable: the others stay in order


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """What a file of tests has imported stays: collecting garbage, as each training does, need not look through it."""
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()


def pytest_collection_finish() -> None:
    """As above, for what the collection has imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny turbo, base and xl-base checkpoints, VAE, text encoder and 5Hz LM. Not to be changed."""
    from acestep.models import create_tiny_checkpoint  # loads torch, which light tests do without

    root = tmp_path_factory.mktemp("tiny")
    create_tiny_checkpoint(root, "turbo")
    create_tiny_checkpoint(root, "base")
    create_tiny_checkpoint(root, "xl-base")
    return root


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_root: Path) -> Path:
    """The tiny turbo DiT folder. Not to be changed."""
    return tiny_root / "acestep-v15-tiny"
