import pytest

from acestep.dataset.scan import scan_folder
from tests import bad_files


@pytest.fixture
def folder(tmp_path):
    for name in ("song.wav", "one/twin.wav", "two/twin.wav"):
        bad_files.song(tmp_path / name, 1.5, rate=8000)
    return tmp_path


def scan(folder):
    result = scan_folder(folder)
    return {sample.audio_path.removeprefix(f"{folder}/"): sample for sample in result.dataset.samples}, result.problems


HEADERS = {
    "caption": ("caption", "Description", "PROMPT"),
    "genre": ("genre", "Genres"),
    "bpm": ("bpm", "Tempo"),
    "keyscale": ("Key", "keyscale", "key_scale", "Key Scale"),
    "timesignature": ("timesignature", "time_signature", "Time Sig"),
    "lyrics": ("lyrics",),
    "language": ("language", "lang", "vocal_language"),
    "is_instrumental": ("is_instrumental", "Instrumental"),
}
VALUES = {
    "caption": "a caption, with a comma",
    "genre": "rock",
    "bpm": "128.4",
    "keyscale": "F# minor",
    "timesignature": "4/4",
    "lyrics": "line one\nline two",
    "language": "EN",
    "is_instrumental": "no",
}
EXPECTED = {**VALUES, "bpm": 128, "timesignature": "4", "language": "en", "is_instrumental": False}


@pytest.mark.parametrize(
    ("which", "file", "delimiter", "encoding"),
    [
        (0, "file", ",", "utf-8"),
        (1, "Filename", ";", "utf-8-sig"),
        (2, "NAME", "\t", "utf-16"),
        (3, "path", "|", "utf-8-sig"),
        (0, "File Name", ";", "utf-16"),
    ],
)
def test_all_column_names_delimiters_and_encodings_are_read(single_file_folder, which, file, delimiter, encoding):
    names = [file, *(names[which % len(names)] for names in HEADERS.values()), "Artist", "Camelot"]
    cells = ["song.wav", *VALUES.values(), "someone", "8A"]
    quoted = ['"' + cell + '"' if set(cell) & set(",\n") else cell for cell in cells]
    text = f"{delimiter.join(names)}\r\n{delimiter.join(quoted)}\r\n"
    (single_file_folder / "labels.csv").write_bytes(text.encode(encoding))
    result = scan_folder(single_file_folder)
    assert result.problems == []
    sample = result.dataset.samples[0].model_dump()
    assert {key: sample[key] for key in EXPECTED} == EXPECTED
    assert result.counts["in_tables"] == result.counts["labelled"] == 1


@pytest.fixture(scope="module")
def single_file_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    bad_files.song(folder / "song.wav", 1.5, rate=8000)
    return folder


def test_a_table_in_latin_1_is_read_and_reported(folder):
    (folder / "labels.csv").write_bytes("File;Caption\nsong.wav;caf\u00e9 \u2013 chanson\n".encode("cp1252"))
    samples, problems = scan(folder)
    assert samples["song.wav"].caption == "caf\u00e9 \u2013 chanson"
    assert ["labels.csv is not UTF-8" in f"{p.path.name} {p.message}" for p in problems] == [True]


def test_rows_are_matched_by_path_name_stem_and_other_audio_format(folder):
    rows = ["two/twin.wav,second", r"C:\old place\one\twin.wav,first", "SONG,by stem"]
    (folder / "labels.csv").write_text("\n".join(["file,caption", *rows]))
    samples, problems = scan(folder)
    captions = {name: sample.caption for name, sample in samples.items()}
    assert captions == {"song.wav": "by stem", "one/twin.wav": "first", "two/twin.wav": "second"}
    assert problems == []
    (folder / "labels.csv").write_text("file,caption\nsong.mp3,was an mp3")
    assert scan(folder)[0]["song.wav"].caption == "was an mp3"


def test_the_table_of_the_captioner_is_read_after_the_folder_was_moved(folder):
    (folder / "c.csv").write_text("filename,path,caption\ntwin.wav,/old/music/two/twin.wav,second\nsong.wav,/x/,first")
    samples, problems = scan(folder)
    assert (samples["two/twin.wav"].caption, samples["one/twin.wav"].caption) == ("second", "")
    assert samples["song.wav"].caption == "first"
    assert problems == []


def test_rows_without_a_unique_audio_file_are_reported_and_ignored(folder):
    rows = ["twin.wav,which?", "absent.wav,x", "three/song.wav,not in that folder", "song.wav,good"]
    (folder / "labels.csv").write_text("\n".join(["file,caption", *rows]))
    samples, problems = scan(folder)
    assert [sample.caption for sample in samples.values()] == ["", "good", ""]
    assert [problem.message for problem in problems] == [
        "3 of 4 rows match no audio file, or several: twin.wav, absent.wav, three/song.wav"
    ]


def test_a_table_in_a_subfolder_applies_to_that_folder_and_takes_precedence(folder):
    (folder / "z.csv").write_text("file,caption,genre\none/twin.wav,above,rock\n")
    (folder / "one" / "a.csv").write_text("file,caption\ntwin.wav,below\nsong.wav,not here\n")
    samples, problems = scan(folder)
    assert (samples["one/twin.wav"].caption, samples["one/twin.wav"].genre) == ("below", "rock")
    assert samples["two/twin.wav"].caption == samples["song.wav"].caption == ""
    assert [problem.path.name for problem in problems] == ["a.csv"]


def test_other_tables_are_reported_and_ignored(folder):
    (folder / "prices.csv").write_text("article,price\npen,3\n")
    (folder / "empty.csv").write_text("")
    (folder / "noise.csv").write_bytes(bytes(range(256)) * 4)
    samples, problems = scan(folder)
    assert len(samples) == 3
    assert {problem.path.name for problem in problems} == {"prices.csv", "empty.csv", "noise.csv"}


def test_an_invalid_cell_is_reported_and_the_rest_of_the_row_is_used(folder):
    (folder / "labels.csv").write_text("file,bpm,caption,lyrics\nsong.wav,quick,good,\n")
    samples, problems = scan(folder)
    assert (samples["song.wav"].caption, samples["song.wav"].bpm, samples["song.wav"].lyrics) == (
        "good",
        None,
        "[Instrumental]",
    )
    assert "bpm must be a number, not 'quick'" in problems[0].message
