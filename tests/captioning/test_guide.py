"""The examples of the guide for the three services."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import captioner_standalone
from acestep.captioning import elevenlabs, gemini, whisper
from tests.fake_cloud import CAPTION, KEY, fake_cloud


@pytest.fixture
def fake_services(tmp_path, monkeypatch):
    """A working folder with audio/ and song.mp3, and a fake server in place of the services."""
    monkeypatch.chdir(tmp_path)
    sound = np.random.default_rng(0).standard_normal(32_000) * 0.1
    soundfile.write("song.mp3", sound, 16_000)
    Path("audio").mkdir()
    soundfile.write("audio/one.mp3", sound, 16_000)
    with fake_cloud() as cloud:
        for module in (elevenlabs, gemini):
            monkeypatch.setattr(module, "URL", cloud.url)
        monkeypatch.setattr(whisper, "URL", f"{cloud.url}/v1")
        yield cloud


def test_the_whisper_example_of_the_guide_works(fake_services):
    from captioner_standalone import WhisperTranscriber

    transcriber = WhisperTranscriber(api_key=KEY)
    lyrics, language = transcriber.transcribe("song.mp3")
    assert (lyrics, language) == ("[Verse]\nHold me now\nagain", "en")
    results = transcriber.transcribe_directory("./audio/", language="en")
    assert results[0]["lyrics"] == lyrics
    assert Path("audio/one.lyrics.txt").exists()


def test_the_elevenlabs_example_of_the_guide_works(fake_services):
    from captioner_standalone import ElevenLabsTranscriber

    transcriber = ElevenLabsTranscriber(api_key=KEY)
    lyrics, language = transcriber.transcribe("song.mp3")
    assert (lyrics, language) == ("[Verse]\nHold me now\nagain", "en")


def test_the_gemini_example_of_the_guide_works(fake_services):
    from captioner_standalone import GeminiCaptioner

    captioner = GeminiCaptioner(api_key=KEY)
    result = captioner.analyze("song.mp3")
    assert (result["caption"], result["genre"], result["bpm"]) == (CAPTION, "synthwave", 118)
    results = captioner.analyze_directory("./audio/", output_dir="./captions/")
    assert results[0]["caption"] == CAPTION
    assert Path("captions/one.json").exists()
    assert Path("audio/one.caption.txt").exists()


def test_unknown_attributes_raise_attribute_error():
    with pytest.raises(AttributeError, match="Nobody"):
        captioner_standalone.Nobody


def test_importing_the_services_does_not_import_torch():
    code = (
        "import sys; from captioner_standalone import WhisperTranscriber, ElevenLabsTranscriber, GeminiCaptioner; "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        cwd=Path(captioner_standalone.__file__).parent,
        check=False,
    )
    assert done.returncode == 0
