"""Label files from the field, each with what it must give. ``tests/fixtures/label_files`` holds them without audio."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from acestep.dataset.sample import Sample
from acestep.dataset.scan import ScanResult, scan_folder
from acestep.dataset.store import read_dataset, write_dataset
from tests import bad_files

FILES = Path(__file__).parents[1] / "fixtures" / "label_files"


def scan(folder: Path, case: str, *stems: str) -> ScanResult:
    """Scan a copy of the files of ``case`` with a song for each of ``stems``."""
    shutil.copytree(FILES / case, folder, dirs_exist_ok=True)
    for stem in stems:
        bad_files.song(folder / f"{stem}.wav", 1.1, rate=8000)
    return scan_folder(folder)


def labels(sample: Sample, *names: str) -> tuple[Any, ...]:
    return tuple(getattr(sample, name) for name in names)


def messages(result: ScanResult) -> str:
    return "\n".join(f"{problem.path.name} {problem.message} {problem.hint}" for problem in result.problems)


def test_files_of_acestep_v1_are_read(tmp_path: Path) -> None:
    (sample,) = scan(tmp_path, "acestep_v1_sidecars", "t_v1_prompt").dataset.samples
    assert labels(sample, "caption", "lyrics", "is_instrumental") == ("rock, 120 bpm", "[verse]\nla", False)


def test_tags_of_ai_toolkit_are_read(tmp_path: Path) -> None:
    result = scan(tmp_path, "aitoolkit_txt", "t_aitk")
    (sample,) = result.dataset.samples
    assert labels(sample, "caption", "lyrics", "bpm", "keyscale") == ("rock", "la", 120, "C major")
    assert labels(sample, "timesignature", "language") == ("4", "en")
    assert result.problems == []


def test_json_with_a_synonym_or_a_nested_object_is_read(tmp_path: Path) -> None:
    result = scan(tmp_path, "json_nothing_known", "jf_nested", "jf_text")
    assert [labels(sample, "caption", "bpm") for sample in result.dataset.samples] == [("rock", 120), ("rock", None)]


def test_json_without_known_keys_is_reported_with_those_that_count(tmp_path: Path) -> None:
    bad_files.song(tmp_path / "a.wav", 1.1, rate=8000)
    (tmp_path / "a.json").write_text('{"foo": "rock", "bar": {"baz": 1}}')
    result = scan_folder(tmp_path)
    assert "none of its keys is known: foo, bar" in messages(result)
    assert "caption, genre, lyrics, bpm" in messages(result)


def test_the_encoding_of_a_text_file_is_detected_and_reported_with_its_confidence(tmp_path: Path) -> None:
    result = scan(tmp_path, "legacy_text", "a", "b")
    first, second = result.dataset.samples
    assert labels(first, "caption", "lyrics") == ("тихий рок с гитарой", "[verse]\nснег идёт")
    assert labels(second, "caption", "lyrics") == ("安静的摇滚", "[verse]\n下雪了")
    assert "a.txt is not UTF-8 and was read as Windows-1251 (confidence " in messages(result)
    assert "b.txt is not UTF-8 and was read as GB18030 (confidence " in messages(result)


@pytest.mark.parametrize(
    ("encoding", "caption"),
    [
        ("cp1251", "тихий рок с гитарой и голосом"),
        ("koi8_r", "тихий рок с гитарой и голосом"),
        ("shift_jis", "静かなピアノのバラード"),
        ("euc_kr", "조용한 피아노 발라드"),
        ("big5", "安靜的鋼琴音樂"),
        ("gb18030", "安静的钢琴，夜空中最亮的星"),
        ("cp1250", "Żółta łódź podwodna, spokojny głos"),
        ("cp1252", "l\u2019été, café \u2013 déjà vu"),
        ("cp1253", "ήσυχη μουσική με πιάνο"),
        ("cp1254", "sakin piyano müziği, yumuşak şarkı"),
        ("cp1255", "שיר שקט עם פסנתר"),
        ("cp1256", "أغنية هادئة مع البيانو"),
        ("utf-16", "тихий рок"),
    ],
)
def test_captions_in_older_encodings_are_read(tmp_path: Path, encoding: str, caption: str) -> None:
    bad_files.song(tmp_path / "a.wav", 1.1, rate=8000)
    (tmp_path / "a.txt").write_bytes(f"caption: {caption}\nbpm: 120\n".encode(encoding))
    (sample,) = scan_folder(tmp_path).dataset.samples
    assert labels(sample, "caption", "bpm") == (caption, 120)


def test_text_whose_encoding_cannot_be_detected_is_not_trained_on(tmp_path: Path) -> None:
    bad_files.song(tmp_path / "a.wav", 1.1, rate=8000)
    (tmp_path / "a.txt").write_bytes(bytes(range(0x80, 0x100)) * 3)
    result = scan_folder(tmp_path)
    (sample,) = result.dataset.samples
    assert labels(sample, "caption", "raw_lyrics", "labeled") == ("", "", False)
    assert "a.txt is not used: it is not UTF-8, and its encoding cannot be detected" in messages(result)


def test_times_tokens_and_notes_in_lyrics_are_not_sung(tmp_path: Path) -> None:
    stems = ("lyr09", "lyr10", "lyr12", "lyr16", "lyr20", "t_lrc")
    samples = {s.filename[:-4]: s for s in scan(tmp_path, "lyrics_marks", *stems).dataset.samples}
    assert samples["lyr09"].is_instrumental
    assert samples["lyr10"].is_instrumental
    assert labels(samples["lyr12"], "lyrics", "line_times_s") == ("la la\nlo", [12.34, 15.0])
    assert samples["lyr16"].lyrics.strip() == "la"
    assert labels(samples["lyr20"], "lyrics", "is_instrumental") == ("[verse]\nla", False)
    assert labels(samples["t_lrc"], "lyrics", "line_times_s", "is_instrumental") == ("la", [1.0], False)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.srt", "1\n00:00:01,000 --> 00:00:02,000\n<i>one</i>\n\n2\n00:00:03,500 --> 00:00:04,000\ntwo\n"),
        ("a.vtt", "WEBVTT\n\n00:01.000 --> 00:02.000 align:start\n<v Ann>one\n\n00:03.500 --> 00:04.000\ntwo\n"),
        ("a.lrc", "[ti:Title]\n[ar:Artist]\n[00:01.00]one\n[00:03.50]<00:03.50>two\n"),
        ("a.txt", "[00:01.00]one\n[00:03.50]two\n"),
    ],
)  # fmt: skip
def test_subtitles_beside_a_song_are_its_lyrics_with_times(tmp_path: Path, name: str, content: str) -> None:
    bad_files.song(tmp_path / "a.wav", 1.1, rate=8000)
    (tmp_path / name).write_text(content)
    result = scan_folder(tmp_path)
    (sample,) = result.dataset.samples
    assert labels(sample, "lyrics", "line_times_s") == ("one\ntwo", [1.0, 3.5])
    assert result.problems == []


def test_line_times_survive_the_dataset_file(tmp_path: Path) -> None:
    bad_files.song(tmp_path / "a.wav", 1.1, rate=8000)
    (tmp_path / "a.lrc").write_text("[00:01.00]one\n[00:03.50]two\n")
    write_dataset(tmp_path / "set.json", scan_folder(tmp_path).dataset)
    (sample,) = read_dataset(tmp_path / "set.json").samples
    assert sample.line_times_s == [1.0, 3.5]


def test_keys_meters_and_languages_are_converted_or_reported(tmp_path: Path) -> None:
    stems = ("key09", "key10", "key16", "lang01", "sig14", "sig18")
    result = scan(tmp_path, "odd_key_meter_language", *stems)
    samples = {sample.filename[:-4]: sample for sample in result.dataset.samples}
    assert samples["key09"].keyscale == "B Minor"
    assert samples["key10"].keyscale == "A Minor"
    assert samples["key16"].keyscale == ""
    assert samples["lang01"].language == "en"
    assert [samples[name].timesignature for name in ("sig14", "sig18")] == ["3", "4"]
    assert [problem.path.name for problem in result.problems] == ["key16.json"]
    assert "keyscale must be a major or minor key such as A Minor, not 5" in messages(result)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("dreamy synth pop, female vocals, 120 bpm", "caption"),
        ("A slow piano ballad", "caption"),
        ("la la la\nlo lo lo", "lyrics"),
        ("[Instrumental]", "lyrics"),
        ("Somewhere over the rainbow", "lyrics"),
    ],
)
def test_a_text_file_that_reads_like_a_description_is_the_caption(tmp_path: Path, text: str, label: str) -> None:
    bad_files.song(tmp_path / "a.wav", 1.1, rate=8000)
    (tmp_path / "a.txt").write_text(text)
    result = scan_folder(tmp_path)
    (sample,) = result.dataset.samples
    assert getattr(sample, label) == text
    assert ("reads like a description" in messages(result)) == (label == "caption")


@pytest.mark.parametrize("name", ["arr.json", "nometa.json"])
def test_a_dataset_sample_with_a_caption_is_labeled(name: str) -> None:
    samples = read_dataset(FILES / "dataset_json_without_labeled" / name).samples
    assert [labels(sample, "caption", "labeled") for sample in samples] == [("rock", True), ("jazz", True)]


def test_odd_values_in_a_dataset_file_are_converted_or_dropped(tmp_path: Path) -> None:
    (tmp_path / "set.json").write_text(
        '[{"audio_path": "a.wav", "caption": "c", "keyscale": "8A", "timesignature": "5/4", "language": "English"}]'
    )
    (sample,) = read_dataset(tmp_path / "set.json").samples
    assert labels(sample, "keyscale", "timesignature", "language") == ("A Minor", "", "en")


def test_metadata_of_hugging_face_datasets_is_read(tmp_path: Path) -> None:
    bad_files.song(tmp_path / "b c.wav", 1.1, rate=8000)
    (tmp_path / "more").mkdir()
    bad_files.song(tmp_path / "more" / "d.wav", 1.1, rate=8000)
    (tmp_path / "more" / "metadata.jsonl").write_text('{"file_name": "d.wav", "text": "jazz", "bpm": 90}\nnot json\n')
    result = scan(tmp_path, "csv_hf_metadata", "a")
    captions = {sample.filename: (sample.caption, sample.bpm) for sample in result.dataset.samples}
    assert captions == {"a.wav": ("rock", None), "b c.wav": ("", None), "d.wav": ("jazz", 90)}
    assert "metadata.jsonl line 2 is not a JSON object; not used" in messages(result)


def test_a_row_with_a_quote_that_is_not_closed_is_reported_and_nothing_is_taken_from_it(tmp_path: Path) -> None:
    result = scan(tmp_path, "csv_open_quote", "a", "b c")
    assert [sample.caption for sample in result.dataset.samples] == ["", ""]
    assert "labels.csv lines 2 to 3: a quote is not closed" in messages(result)


def test_a_row_with_more_cells_than_columns_is_reported_and_not_cut(tmp_path: Path) -> None:
    result = scan(tmp_path, "csv_unquoted_comma", "a")
    assert [sample.caption for sample in result.dataset.samples] == [""]
    assert "labels.csv line 2 has 5 cells for 3 columns; not used" in messages(result)


def test_the_delimiter_line_of_excel_and_blank_lines_are_skipped(tmp_path: Path) -> None:
    result = scan(tmp_path, "csv_sep_line", "a")
    (sample,) = result.dataset.samples
    assert labels(sample, "caption", "bpm") == ("rock", 120)
    assert result.problems == []
    (tmp_path / "labels.csv").write_text("\n\n \nFile,Caption\na.wav,after blank lines\n")
    assert scan_folder(tmp_path).dataset.samples[0].caption == "after blank lines"


def test_rows_after_a_damaged_one_are_used(tmp_path: Path) -> None:
    for name in ("a", "b"):
        bad_files.song(tmp_path / f"{name}.wav", 1.1, rate=8000)
    (tmp_path / "labels.csv").write_text('file,caption\na.wav,"rock" and roll\nb.wav,"pop, soft"\n')
    result = scan_folder(tmp_path)
    assert [sample.caption for sample in result.dataset.samples] == ["", "pop, soft"]
    assert "labels.csv line 2: a quote is not closed or not doubled" in messages(result)


def test_a_tsv_table_and_the_first_sheet_of_a_workbook_are_read(tmp_path: Path) -> None:
    from openpyxl import Workbook

    for name in ("a", "b"):
        bad_files.song(tmp_path / f"{name}.wav", 1.1, rate=8000)
    (tmp_path / "labels.tsv").write_text("file\tcaption\na.wav\trock, with a comma\n")
    workbook = Workbook()
    for row in ([None], ["File", "BPM", "Caption", "Key"], ["b.wav", 128.5, "techno", "8A"]):
        workbook.active.append(row)
    workbook.create_sheet("other").append(["File", "Caption"])
    workbook.save(tmp_path / "table.xlsx")
    result = scan_folder(tmp_path)
    first, second = result.dataset.samples
    assert first.caption == "rock, with a comma"
    assert labels(second, "caption", "bpm", "keyscale") == ("techno", 129, "A Minor")
    assert result.problems == []
    assert result.counts["in_tables"] == 2


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a workbook", b"text"])
def test_a_file_that_is_no_workbook_is_reported(tmp_path: Path, content: bytes) -> None:
    bad_files.song(tmp_path / "a.wav", 1.1, rate=8000)
    (tmp_path / "table.xlsx").write_bytes(content)
    assert "table.xlsx is not an Excel workbook" in messages(scan_folder(tmp_path))
