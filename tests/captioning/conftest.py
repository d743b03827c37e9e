"""Fixtures: two tiny models and a folder with three short songs, created once per session."""

from __future__ import annotations

import gc
import shutil
import weakref

import pytest
import soundfile

from tests.synth_songs import RATE_HZ, Song, play

SONGS = {
    "first.wav": Song("rock", 120, "E Minor", 1, seconds=9),
    "second.wav": Song("house", 124, "A Minor", 2, seconds=8),
    "sub/third.wav": Song("waltz", 150, "G Major", 3, seconds=8),
}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """A checkpoints folder with the tiny captioner and the tiny transcriber."""
    from acestep.captioning.tiny import create_tiny_omni

    root = tmp_path_factory.mktemp("checkpoints")
    create_tiny_omni(root, "captioner")
    create_tiny_omni(root, "transcriber")
    return root


@pytest.fixture(scope="session")
def _songs(tmp_path_factory):
    root = tmp_path_factory.mktemp("songs")
    for name, song in SONGS.items():
        (root / name).parent.mkdir(exist_ok=True)
        soundfile.write(root / name, play(song), RATE_HZ)
    return root


@pytest.fixture
def songs(_songs, tmp_path):
    """A copy of the three songs for this test."""
    return shutil.copytree(_songs, tmp_path / "songs")


@pytest.fixture
def models_alive(monkeypatch):
    """Function that counts the Qwen2.5-Omni models created in this test that are still in memory."""
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

    created = weakref.WeakSet()
    init = Thinker.__init__

    def counting_init(self, *args, **kwargs):
        init(self, *args, **kwargs)
        created.add(self)

    monkeypatch.setattr(Thinker, "__init__", counting_init)

    def count():
        gc.collect()
        return len(created)

    return count


@pytest.fixture(scope="module", autouse=True)
def fast_tiny_models():
    """Use one thread and exclude loaded modules from garbage collection: faster with tiny models."""
    import torch
    import transformers  # noqa: F401

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.freeze()
    yield
    gc.unfreeze()
    torch.set_num_threads(before)
