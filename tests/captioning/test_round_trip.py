"""A folder that was captioned here is read by the trainer's scan as it was written, whatever the models say."""

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
SUNG = st.builds(Lyrics, LYRIC_LINES, st.sampled_from(["en", "zh", "ja", "ko", "yue"]))
SAID = st.builds(
    Description,
    caption=WORDS,
    genre=WORDS,
    keyscale=KEYS,
    timesignature=st.sampled_from(["2", "3", "4", "6"]),
    bpm=st.integers(30, 300),
)


class Answers:
    """A captioner and a transcriber that say what they are told to."""

    name, needs_audio = "told", False

    def __init__(self, said, sung):
        self.said, self.sung = dict(zip(NAMES, said, strict=True)), dict(zip(NAMES, sung, strict=True))

    def describe(self, song, **_):
        return self.said[song.path.name]

    def transcribe(self, song, **_):
        return self.sung[song.path.name]

    def close(self):
        pass


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=12,
    deadline=None,
    phases=[Phase.generate],  # a folder takes too long to look for a smaller example
)
@given(
    said=st.tuples(SAID, SAID, SAID),
    sung=st.tuples(*[SUNG | st.just(Lyrics("[Instrumental]"))] * 3),
    texts=st.booleans(),
    tag=st.sampled_from(["", "zx_style"]),
)
def test_a_captioned_folder_is_scanned_without_loss(songs, monkeypatch, tmp_path_factory, said, sung, texts, tag):
    answers = Answers(said, sung)
    one = {"local": SimpleNamespace(load=lambda: lambda config, report: answers, is_online=False)}
    monkeypatch.setattr(run, "CAPTIONERS", one)
    monkeypatch.setattr(run, "TRANSCRIBERS", one)
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
        wanted, lyrics = answers.said[sample.filename], answers.sung[sample.filename]
        assert (sample.caption, sample.genre, sample.bpm) == (wanted.caption, wanted.genre, wanted.bpm)
        assert (sample.keyscale, sample.timesignature) == (wanted.keyscale, wanted.timesignature)
        assert (sample.lyrics, sample.language) == (lyrics.text, lyrics.language)
        assert sample.is_instrumental == lyrics.is_instrumental
        assert sample.labeled
        assert sample.sources["caption"] == "told"
    write_dataset(folder / "dataset.json", found.dataset)
    again = read_dataset(folder / "dataset.json")
    assert [sample.model_dump() for sample in again.samples] == [
        sample.model_dump() for sample in found.dataset.samples
    ]
    assert Path(again.samples[0].audio_path) == songs / NAMES[0]
