"""What tests of every part share: the tiny checkpoints, made once a session."""

from __future__ import annotations

from pathlib import Path

import pytest


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
