"""What a person types is saved in the dataset and in the label files, and stays there whatever comes after."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from acestep.captioning.edits import save_edit
from acestep.captioning.sidecar import locked_labels, write_labels
from acestep.core.errors import DatasetError
from acestep.dataset.scan import scan_folder
from acestep.ui.trainer.editable_dataset import EditableDataset, song_key
from tests.songs import write_song

NAMES = ("first", "second", "third")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three songs; the first one has a caption file."""
    for seed, name in enumerate(NAMES):
        write_song(tmp_path / "songs" / f"{name}.wav", 1.0, seed)
    (tmp_path / "songs" / "first.caption.txt").write_text("A calm piece")
    return tmp_path / "songs"


@pytest.fixture
def dataset(tmp_path: Path, folder: Path) -> EditableDataset:
    found = start(tmp_path)
    found.scan(folder)
    return found


def start(root: Path) -> EditableDataset:
    """The dataset of a program that was just started."""
    return EditableDataset(root / "state" / "dataset.json")


def captions(dataset: EditableDataset) -> list[str]:
    return [sample.caption for sample in dataset.samples]


def sidecar(folder: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return content


def generate(folder: Path, index: int, caption: str) -> None:
    """A captioner writes a caption, which no person edited."""
    with locked_labels(scan_folder(folder).dataset.samples[index]) as known:
        write_labels(known, {"caption": (caption, "model")}, extra={}, texts=True)


def test_an_edit_is_written_to_the_label_files_and_locked_there(dataset: EditableDataset, folder: Path) -> None:
    assert dataset.relabel({0: {"caption": "Mine", "bpm": "120", "prompt_override": "genre"}}) == 1
    found = sidecar(folder, "first")
    assert (found["caption"], found["bpm"], found["prompt_override"]) == ("Mine", 120, "genre")
    assert found["sources"]["caption"] == "user"
    assert (folder / "first.caption.txt").read_text() == "Mine\n"
    assert (folder / "first.caption.txt.bak").read_text() == "A calm piece"


def test_the_language_of_an_instrumental_song_is_kept_until_its_lyrics_are_replaced(
    dataset: EditableDataset, folder: Path, tmp_path: Path
) -> None:
    dataset.relabel({1: {"is_instrumental": True}})
    dataset.relabel({1: {"language": "fr"}})
    again = start(tmp_path)
    again.scan(folder)
    assert again.samples[1].language == "fr"
    again.relabel({1: {"lyrics": "Sur le pont", "is_instrumental": False}})
    assert again.samples[1].language == "fr"
    again.relabel({1: {"is_instrumental": True, "lyrics": "[Instrumental]"}})
    assert again.samples[1].language == "unknown"


def test_a_second_scan_keeps_typed_labels(dataset: EditableDataset, folder: Path, tmp_path: Path) -> None:
    dataset.relabel({1: {"caption": "Mine"}})
    (folder / "second.json").unlink()
    (folder / "second.caption.txt").unlink()
    dataset.scan(folder)
    assert captions(dataset) == ["A calm piece", "Mine", ""]
    again = start(tmp_path)
    again.scan(folder)
    assert captions(again) == ["A calm piece", "Mine", ""]
    assert again.conflicts == []


def test_typed_labels_win_over_files_that_cannot_be_written(
    dataset: EditableDataset, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("acestep.captioning.sidecar.write_sidecar", _read_only)
        dataset.relabel({0: {"caption": "Mine"}})
        assert "cannot be written" in dataset.label_problems[str(folder / "first.wav")]
    (folder / "first.caption.txt").write_text("A calm piece")
    again = start(tmp_path)
    again.scan(folder)
    assert captions(again)[0] == "Mine"
    assert again.conflicts == []
    assert sidecar(folder, "first")["caption"] == "Mine"  # the folder can be written again


def _read_only(*_: Any) -> Path:
    from acestep.core.errors import NotWritable

    raise NotWritable("first.json cannot be written: Read-only file system")


def test_an_edit_in_a_read_only_folder_stays_in_the_draft(dataset: EditableDataset, folder: Path) -> None:
    """A folder cannot be made read-only for root, so a folder takes the place of the file."""
    (folder / "second.json").mkdir()
    assert dataset.relabel({1: {"caption": "Mine"}}) == 1
    assert captions(dataset)[1] == "Mine"
    assert list(dataset.label_problems) == [str(folder / "second.wav")]


def test_a_song_that_comes_back_has_its_typed_labels(dataset: EditableDataset, folder: Path, tmp_path: Path) -> None:
    dataset.relabel({2: {"lyrics": "[Verse]\nMine"}})
    away = tmp_path / "away.wav"
    (folder / "third.wav").rename(away)
    for path in folder.glob("third.*"):
        path.unlink()
    dataset.scan(folder)
    assert len(dataset.samples) == 2
    away.rename(folder / "third.wav")
    again = start(tmp_path)
    again.scan(folder)
    assert (again.samples[2].lyrics, again.samples[2].is_instrumental) == ("[Verse]\nMine", True)


def test_scanning_another_folder_and_coming_back_loses_nothing(
    dataset: EditableDataset, folder: Path, tmp_path: Path
) -> None:
    (folder / "second.json").mkdir()  # the label file cannot be written
    dataset.relabel({1: {"caption": "Mine"}})
    write_song(tmp_path / "other" / "second.wav", 1.0, 9)
    dataset.scan(tmp_path / "other")
    assert captions(dataset) == [""]
    dataset.scan(folder)
    assert captions(dataset) == ["A calm piece", "Mine", ""]


def test_a_version_that_another_person_wrote_is_shown_and_either_one_can_be_used(
    dataset: EditableDataset, folder: Path
) -> None:
    dataset.relabel({0: {"caption": "Mine"}})
    save_edit(scan_folder(folder).dataset.samples[0], {"caption": "Theirs"})
    dataset.scan(folder)
    (conflict,) = dataset.conflicts
    assert (conflict.song, conflict.label, conflict.typed, conflict.found) == (
        "first.wav",
        "caption",
        "Mine",
        "Theirs",
    )
    assert sidecar(folder, "first")["caption"] == "Theirs"
    dataset.resolve(conflict, keep_typed=True)
    assert dataset.conflicts == []
    assert sidecar(folder, "first")["caption"] == "Mine"
    dataset.undo()
    assert dataset.conflicts == [conflict]
    assert sidecar(folder, "first")["caption"] == "Theirs"
    dataset.resolve(conflict, keep_typed=False)
    assert (captions(dataset)[0], dataset.conflicts) == ("Theirs", [])
    dataset.scan(folder)
    assert (captions(dataset)[0], dataset.conflicts) == ("Theirs", [])


def test_a_generated_caption_does_not_replace_a_typed_one(dataset: EditableDataset, folder: Path) -> None:
    (folder / "second.json").mkdir()
    dataset.relabel({1: {"caption": "Mine"}})
    (folder / "second.json").rmdir()
    generate(folder, 1, "A generated caption")
    dataset.scan(folder)
    assert captions(dataset)[1] == "Mine"
    assert dataset.conflicts == []


def test_labels_that_a_captioner_writes_meanwhile_are_taken_and_typed_ones_stay(
    dataset: EditableDataset, folder: Path
) -> None:
    dataset.relabel({1: {"caption": "Mine"}})
    generate(folder, 2, "A generated caption")
    dataset.read_label_files()
    assert captions(dataset) == ["A calm piece", "Mine", "A generated caption"]


def test_undo_restores_dataset_and_files(dataset: EditableDataset, folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    dataset.relabel({0: {"caption": "Mine"}})
    dataset.relabel({0: {"caption": "Mine again"}, 1: {"caption": "Mine"}})
    dataset.undo()
    assert captions(dataset) == ["Mine", "", ""]
    assert sidecar(folder, "first")["caption"] == "Mine"
    dataset.undo()
    assert captions(dataset) == ["A calm piece", "", ""]
    assert {path: path.read_bytes() for path in folder.iterdir() if path.suffix != ".bak"} == before
    dataset.scan(folder)
    assert captions(dataset) == ["A calm piece", "", ""]
    with pytest.raises(DatasetError, match="nothing to undo"):
        dataset.undo()


def test_edits_are_written_to_the_dataset_file_that_was_saved_or_loaded(
    dataset: EditableDataset, folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "saved.json"
    dataset.save(path)
    dataset.relabel({1: {"caption": "Mine"}})
    assert [song["caption"] for song in json.loads(path.read_text())["samples"]] == ["A calm piece", "Mine", ""]
    again = start(tmp_path)
    again.relabel({2: {"caption": "Later"}})
    assert [song["caption"] for song in json.loads(path.read_text())["samples"]][2] == "Later"
    path.write_text(path.read_text().replace("Later", "Changed"))
    again.relabel({2: {"caption": "Even later"}})
    assert "another program" in again.file_problem
    assert "Changed" in path.read_text()


def test_loading_a_dataset_keeps_typed_labels_and_shows_differences(dataset: EditableDataset, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    dataset.write(path)
    other = tmp_path / "other.json"
    other.write_text(path.read_text().replace("A calm piece", "A third version"))
    dataset.relabel({0: {"caption": "Mine"}, 1: {"caption": "Mine too"}})
    dataset.load(path)
    assert (captions(dataset), dataset.conflicts) == (["Mine", "Mine too", ""], [])
    dataset.load(other)
    assert captions(dataset) == ["Mine", "Mine too", ""]
    assert [(each.song, each.found) for each in dataset.conflicts] == [("first.wav", "A third version")]


def test_an_invalid_value_is_kept_as_text_and_the_others_are_stored(
    dataset: EditableDataset, folder: Path, tmp_path: Path
) -> None:
    key = song_key(dataset.samples[0])
    for label, value in {"bpm": "fast", "caption": "Mine", "keyscale": "D minor"}.items():
        dataset.autosave.put(key, label, value)
    dataset.autosave.flush()
    assert (captions(dataset)[0], dataset.samples[0].keyscale, dataset.samples[0].bpm) == ("Mine", "D minor", None)
    assert dataset.autosave.typed(key) == {"bpm": "fast"}
    assert dataset.autosave.reason(key, "bpm") == "Must be a number, not 'fast'"
    again = start(tmp_path)
    assert again.autosave.typed(key) == {"bpm": "fast"}
    again.autosave.put(key, "bpm", "98")
    again.autosave.flush()
    assert (again.samples[0].bpm, again.autosave.typed(key)) == (98, {})


def test_text_that_arrives_after_another_scan_belongs_to_its_own_song(
    dataset: EditableDataset, folder: Path, tmp_path: Path
) -> None:
    write_song(tmp_path / "other" / "second.wav", 1.0, 9)  # the same name, so the same id
    key = song_key(dataset.samples[1])
    dataset.scan(tmp_path / "other")
    dataset.autosave.put(key, "caption", "Mine")
    dataset.autosave.flush()
    assert captions(dataset) == [""]
    dataset.scan(folder)
    assert captions(dataset)[1] == "Mine"


def test_an_edit_that_could_not_be_saved_is_saved_with_the_next_attempt(
    dataset: EditableDataset, tmp_path: Path
) -> None:
    draft = tmp_path / "state" / "dataset.json"
    draft.unlink()
    draft.mkdir()
    key = song_key(dataset.samples[1])
    dataset.autosave.put(key, "caption", "Mine")
    dataset.autosave.flush()
    assert "cannot be written" in dataset.autosave.problem
    assert dataset.autosave.typed(key) == {"caption": "Mine"}
    draft.rmdir()
    dataset.autosave.flush()
    assert (dataset.autosave.problem, dataset.autosave.waiting) == ("", False)
    assert captions(start(tmp_path))[1] == "Mine"


class Interleaving(RuleBasedStateMachine):
    """Edits, undo, scans, restarts, captioners and songs that vanish, in any order."""

    root: Path

    @initialize()
    def begin(self) -> None:
        self.work = self.root / "work"
        shutil.rmtree(self.work, ignore_errors=True)
        for folder in ("a", "b"):
            shutil.copytree(self.root / "songs", self.work / folder)
        self.number = 0
        self.expected: dict[str, str] = {}
        self.steps: list[tuple[str, str | None]] = []
        self.dataset = start(self.work)
        self.scan("a")

    @rule(folder=st.sampled_from("ab"))
    def scan(self, folder: str) -> None:
        self.folder = self.work / folder
        self.dataset.scan(self.folder)

    @rule(data=st.data())
    def edit(self, data: st.DataObject) -> None:
        sample = data.draw(st.sampled_from(self.dataset.samples))
        self.number += 1
        self.steps.append((sample.audio_path, self.expected.get(sample.audio_path)))
        self.expected[sample.audio_path] = f"typed text {self.number}"
        self.dataset.autosave.put(song_key(sample), "caption", self.expected[sample.audio_path])
        self.dataset.autosave.flush()

    @precondition(lambda self: self.steps)
    @rule()
    def undo(self) -> None:
        audio, before = self.steps.pop()
        if not Path(audio).is_file():
            self.steps.append((audio, before))
            return
        with suppress(DatasetError):  # label files changed since; the dataset is undone
            self.dataset.undo()
        self.expected.pop(audio)
        if before is not None:
            self.expected[audio] = before

    @rule()
    def restart(self) -> None:
        self.dataset = start(self.work)
        self.steps = []

    @rule(name=st.sampled_from(NAMES))
    def label_file_is_deleted(self, name: str) -> None:
        path = self.folder / f"{name}.json"
        if path.is_file():
            path.unlink()

    @rule(name=st.sampled_from(NAMES), blocked=st.booleans())
    def label_file_becomes_unwritable(self, name: str, blocked: bool) -> None:
        path = self.folder / f"{name}.json"
        if blocked and not path.exists():
            path.mkdir()
        elif not blocked and path.is_dir():
            path.rmdir()

    @rule(index=st.integers(0, 2), source=st.sampled_from(["user", "model"]))
    def another_program_writes_a_caption(self, index: int, source: str) -> None:
        samples = scan_folder(self.folder).dataset.samples
        sample = samples[index % len(samples)]
        if not Path(sample.audio_path).with_suffix(".json").is_dir():
            self.number += 1
            with locked_labels(sample) as known:
                write_labels(known, {"caption": (f"other text {self.number}", source)}, extra={}, texts=True)

    @rule()
    def label_files_are_read_again(self) -> None:
        self.dataset.read_label_files()

    @precondition(lambda self: self.dataset.conflicts)
    @rule()
    def a_conflict_is_resolved(self) -> None:
        conflict = self.dataset.conflicts[0]
        self.dataset.resolve(conflict, keep_typed=True)
        self.steps.append((conflict.audio, self.expected.get(conflict.audio)))

    @rule(name=st.sampled_from(NAMES[1:]))
    def song_goes_and_comes_back(self, name: str) -> None:
        path, away = self.folder / f"{name}.wav", self.work / f"{self.folder.name}-{name}"
        if path.exists():
            path.rename(away)
        elif away.exists():
            away.rename(path)

    @invariant()
    def typed_text_is_there(self) -> None:
        found = {sample.audio_path: sample.caption for sample in self.dataset.samples}
        assert {audio: text for audio, text in self.expected.items() if audio in found} == {
            audio: found[audio] for audio in self.expected if audio in found
        }

    def teardown(self) -> None:
        if hasattr(self, "dataset"):
            for path in self.work.glob("?-*"):
                path.rename(self.work / path.name[0] / f"{path.name[2:]}.wav")
            for folder in "ab":
                self.dataset.scan(self.work / folder)
                self.typed_text_is_there()


def test_typed_text_is_never_lost_in_any_order_of_events(folder: Path, tmp_path: Path) -> None:
    Interleaving.root = tmp_path
    machine = Interleaving.TestCase
    machine.settings = settings(
        max_examples=15, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
    )
    machine().runTest()
