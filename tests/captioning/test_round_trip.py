"""The dataset scan reads a captioned folder without loss, for any labels."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from acestep.captioning import run
from acestep.captioning.configs import CaptionJob
from acestep.captioning.schema import Description, Lyrics
from acestep.core.events import Finished
from acestep.core.jobs import run_job, write_job
from acestep.dataset.scan import scan_folder
from acestep.dataset.store import read_dataset, write_dataset
from tests.captioning.test_sidecar import KEYS, LYRIC_LINES, WORDS

NAMES = ("first.wav", "second.wav", "third.wav")
LYRICS = st.builds(Lyrics, LYRIC_LINES, st.sampled_from(["en", "zh", "ja", "ko", "yue"]))
DESCRIPTIONS = st.builds(
    Description,
    caption=WORDS,
    genre=WORDS,
    keyscale=KEYS,
    timesignature=st.sampled_from(["2", "3", "4", "6"]),
    bpm=st.integers(30, 300),
)


class Answers:
    """A captioner and transcriber with fixed answers."""

    name, needs_audio = "fixed", False

    def __init__(self, descriptions, lyrics):
        self.descriptions = dict(zip(NAMES, descriptions, strict=True))
        self.lyrics = dict(zip(NAMES, lyrics, strict=True))

    def describe(self, song, **_):
        return self.descriptions[song.path.name]

    def transcribe(self, song, **_):
        return self.lyrics[song.path.name]

    def close(self):
        pass


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=12,
    deadline=None,
    phases=[Phase.generate],  # shrinking takes too long
)
@given(
    descriptions=st.tuples(DESCRIPTIONS, DESCRIPTIONS, DESCRIPTIONS),
    lyrics=st.tuples(*[LYRICS | st.just(Lyrics("[Instrumental]"))] * 3),
    texts=st.booleans(),
    tag=st.sampled_from(["", "zx_style"]),
)
def test_a_captioned_folder_is_scanned_without_loss(
    songs, monkeypatch, tmp_path_factory, descriptions, lyrics, texts, tag
):
    answers = Answers(descriptions, lyrics)
    registry = {"local": SimpleNamespace(load=lambda: lambda config, report: answers, is_online=False)}
    monkeypatch.setattr(run, "CAPTIONERS", registry)
    monkeypatch.setattr(run, "TRANSCRIBERS", registry)
    folder = tmp_path_factory.mktemp("run")
    config = CaptionJob(
        audio_dir=songs,
        transcriber="local",
        measure=False,
        existing="replace",
        prefer="model",
        write_texts=texts,
        custom_tag=tag,
        csv=songs / "captions.csv",
        device="cpu",
    )
    write_job(folder, "caption", config)
    assert isinstance(run_job(folder), Finished)
    found = scan_folder(songs)
    assert found.problems == []
    for sample in found.dataset.samples:
        expected, expected_lyrics = answers.descriptions[sample.filename], answers.lyrics[sample.filename]
        assert (sample.caption, sample.genre, sample.bpm) == (expected.caption, expected.genre, expected.bpm)
        assert (sample.keyscale, sample.timesignature) == (expected.keyscale, expected.timesignature)
        assert (sample.lyrics, sample.language) == (expected_lyrics.text, expected_lyrics.language)
        assert sample.is_instrumental == expected_lyrics.is_instrumental
        assert sample.labeled
        assert sample.sources["caption"] == "fixed"
    write_dataset(folder / "dataset.json", found.dataset)
    again = read_dataset(folder / "dataset.json")
    assert [sample.model_dump() for sample in again.samples] == [
        sample.model_dump() for sample in found.dataset.samples
    ]
    assert Path(again.samples[0].audio_path) == songs / NAMES[0]
