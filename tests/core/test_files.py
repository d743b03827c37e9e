import subprocess
import sys
from pathlib import Path, PureWindowsPath

import pytest

from acestep.core import files
from acestep.core.errors import ConfigError, DiskFull, NotWritable, StorageError
from acestep.core.paths import invalid_on_windows, safe_name, typed_path
from tests.windows import windows_error


def test_a_file_is_replaced_atomically_and_leaves_no_temporary_file(tmp_path):
    target = tmp_path / "some folder" / "name with ünicode.json"
    files.write_json(target, {"a": "ü"})
    files.write_json(target, {"a": "2"})
    assert files.read_json(target, error=ConfigError) == {"a": "2"}
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_long_file_names_are_written_and_malicious_json_is_rejected(tmp_path):
    path = tmp_path / ("\N{GUITAR}" * 62 + ".json")
    files.write_json(path, {"a": 1})
    assert files.read_json(path, error=ConfigError) == {"a": 1}
    for malicious in ("9" * 5000, "[" * 100_000):
        files.write_text(path, malicious)
        with pytest.raises(ConfigError, match="is not valid JSON"):
            files.read_json(path, error=ConfigError)


def test_a_failed_write_keeps_the_old_content(tmp_path, monkeypatch):
    target = tmp_path / "a.json"
    files.write_text(target, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(DiskFull, match="a.json was not written"):
        files.write_text(target, "new")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_is_replaced_atomically(tmp_path):
    target = tmp_path / "best"
    for content in ("one", "two"):
        with files.replace_folder(target) as fresh:
            (fresh / "weights").write_text(content)
    assert (target / "weights").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_failed_replacement_keeps_the_old_folder(tmp_path):
    target = tmp_path / "best"
    with files.replace_folder(target) as fresh:
        (fresh / "weights").write_text("one")

    def fail():
        with files.replace_folder(target) as fresh:
            (fresh / "weights").write_text("two")
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        fail()
    assert (target / "weights").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_replacement_killed_between_its_two_renames_is_undone(tmp_path):
    target = tmp_path / "best"
    with files.replace_folder(target) as fresh:
        (fresh / "weights").write_text("one")
    target.rename(tmp_path / ".best.old")
    files.recover_folder(target)
    assert (target / "weights").read_text() == "one"


def test_json_errors_name_the_file(tmp_path):
    (tmp_path / "bad.json").write_text("{not json")
    with pytest.raises(ConfigError, match="bad.json is not valid JSON"):
        files.read_json(tmp_path / "bad.json", error=ConfigError)
    with pytest.raises(ConfigError, match="missing.json does not exist"):
        files.read_json(tmp_path / "missing.json", error=ConfigError)


def test_versioned_files_contain_kind_and_version(tmp_path):
    path = tmp_path / "state.json"
    files.write_versioned(path, "state", 1, {"step": 3})
    assert files.read_versioned(path, "state", 1, error=ConfigError)["step"] == 3
    with pytest.raises(ConfigError, match="is not a job file"):
        files.read_versioned(path, "job", 1, error=ConfigError)
    files.write_versioned(path, "state", 2, {})
    with pytest.raises(ConfigError, match="has version 2, this program reads up to 1"):
        files.read_versioned(path, "state", 1, error=ConfigError)


def test_too_little_disk_space_is_an_error(tmp_path):
    files.require_space(tmp_path / "not" / "there" / "yet", 1)
    with pytest.raises(DiskFull, match="MiB left"):
        files.require_space(tmp_path, 2**60)


def test_a_drive_that_does_not_exist_is_an_error():
    with pytest.raises(StorageError, match="there is no drive Z:"):
        files.existing_parent(PureWindowsPath("Z:/music/run"))


@pytest.mark.parametrize(
    ("code", "name", "error", "message"),
    [
        (112, "a.wav", DiskFull, "the disk is full, a.wav was not written"),
        (39, "a.wav", DiskFull, "the disk is full, a.wav was not written"),
        (32, "a.wav", NotWritable, "a.wav cannot be written"),
        (19, "a.wav", NotWritable, "a.wav cannot be written"),
        (206, "a.wav", StorageError, "its name or path is too long, [0-9]+ characters"),
        (3, "a/" * 150, StorageError, "its name or path is too long, [0-9]+ characters"),
        (3, "a.wav", StorageError, "a.wav cannot be written: simulated"),
        (123, "a.wav", StorageError, "a.wav cannot be written: simulated"),
    ],
)
def test_errors_of_windows_become_errors_of_the_program(code, name, error, message):
    with pytest.raises(error, match=message) as raised, files.storage_errors(Path(name)):
        raise windows_error(code)
    assert type(raised.value) is error


@pytest.mark.parametrize(
    ("path", "invalid"),
    [
        ("C:/music/AUX.json", "AUX.json"),
        ("C:/music/con", "con"),
        ("runs/my:run", "my:run"),
        ("runs/what?/final", "what?"),
        ("runs/first. /final", "first. "),
        ("runs/com1 .txt", "com1 .txt"),
        ("C:/music/../auxiliary/konzert. 1/console.json", ""),
        ("//server/share/日本語", ""),
    ],
)
def test_names_that_windows_does_not_allow_are_rejected_there(monkeypatch, path, invalid):
    assert invalid_on_windows(PureWindowsPath(path)) == invalid
    if invalid:
        with files.storage_errors(PureWindowsPath(path)):
            pass
        monkeypatch.setattr(files, "WINDOWS", True)
        with pytest.raises(StorageError) as error, files.storage_errors(PureWindowsPath(path)):
            pass
        assert repr(invalid) in str(error.value)


@pytest.mark.root
def test_a_read_only_folder_is_reported_as_not_writable(tmp_path):
    tmp_path.chmod(0o755)
    code = (
        "import sys; from pathlib import Path; from acestep.core import files, errors\n"
        "try: files.write_text(Path(sys.argv[1]), 'x')\n"
        "except errors.NotWritable as error: print('raised:', error)\n"
    )
    command = ["setpriv", "--reuid", "65534", "--clear-groups", sys.executable, "-c", code, str(tmp_path / "a.txt")]
    result = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=files.Path(__file__).parents[2]
    )
    assert "raised:" in result.stdout, result.stderr
    assert NotWritable.__doc__


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("AC/DC: live?", "AC_DC_ live_"),
        ("con", "_con"),
        ("AUX.txt", "_AUX.txt"),
        ("com1 .mix", "_com1 .mix"),
        ("com²", "_com²"),
        ("  ", "_"),
        ("a" * 300, "a" * 100),
        ("歌" * 90, "歌" * 80),
        ("a\udcff", "a"),
        ("été.", "été"),
    ],
)
def test_any_text_becomes_a_valid_file_name(text, name):
    assert safe_name(text) == name


@pytest.mark.parametrize(
    "typed",
    [
        ' "{}" ', "'{}'", "\u201c{}\u201d", "\u202a{}", "\ufeff{}\u200b", "{}  ", "file://{}", "file://localhost{}",
        "FILE://{}", "$MUSIC_FOLDER/a b",
    ],
)  # fmt: skip
def test_a_pasted_path_loses_quotes_marks_and_its_scheme(tmp_path, monkeypatch, typed):
    folder = tmp_path / "a b"
    monkeypatch.setenv("MUSIC_FOLDER", str(tmp_path))
    assert typed_path(typed.format(folder)) == folder


def test_an_address_of_a_file_is_unquoted():
    assert typed_path("file:///home/me/My%20M%C3%BCsic") == Path("/home/me/My M\u00fcsic")


def test_the_home_folder_and_inner_quotes_are_kept():
    assert typed_path("~/x") == Path.home() / "x"
    assert typed_path("/music/it's live") == Path("/music/it's live")
