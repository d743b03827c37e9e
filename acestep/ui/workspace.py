"""Where the pages write, how entered paths are resolved, and the copies of files that the browser may fetch.

Every path that a user enters goes through ``Workspace``. The server exposes no folder to the browser: an audio file to
be played is copied into the cache under a hashed name.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from acestep.core import renames
from acestep.core.errors import StorageError
from acestep.core.files import storage_errors
from acestep.core.paths import PROJECT, is_network_path, typed_path
from acestep.core.untrusted import exists, is_file, is_folder, shorten

WORKSPACE_VARIABLE = "ACESTEP_WORKSPACE"
_MAX_NAME_BYTES = 255  # of one folder or file on common file systems
_PLAYED_BY_BROWSERS = (".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aac")


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folder that relative paths start from; it contains ``datasets``, ``lora_output`` and other output folders."""

    root: Path

    @classmethod
    def of_program(cls) -> Workspace:
        """The program's folder, or the one that the environment variable names."""
        named = os.environ.get(WORKSPACE_VARIABLE)
        return cls(typed_path(named).resolve() if named else PROJECT)

    @property
    def state_folder(self) -> Path:
        """Where the pages save their state."""
        return self.root / "profiles" / ".pages"

    def path(self, text: str, what: str) -> Path:
        """The absolute path entered in the field ``what``, existing or not. Raises StorageError."""
        if not isinstance(text, str) or not text.strip():  # clients of the API can send any type
            raise StorageError(f"{what} is empty", hint="Enter a path on the computer that runs this program.")
        if "\0" in text or is_network_path(str(typed_path(text))):
            raise StorageError(f"{what} {text!r} is a network path", hint="Use a path on this computer.")
        try:
            path = (self.root / typed_path(text)).resolve()
            too_long = max((len(os.fsencode(part)) for part in path.parts), default=0) > _MAX_NAME_BYTES
        except (OSError, RuntimeError, ValueError) as problem:  # a loop of links, an invalid character
            shown = ascii(shorten(text))
            raise StorageError(f"{what} {shown} cannot be used: {problem}", hint="Enter another path.") from None
        if too_long:
            raise StorageError(
                f"{what} {shorten(text)!r} has a name that is too long",
                hint=f"Names have up to {_MAX_NAME_BYTES} bytes.",
            )
        return path

    def folder(self, text: str, what: str) -> Path:
        """An existing folder. Raises StorageError."""
        path = self.path(text, what)
        if is_file(path):
            raise StorageError(f"{what}: {path} is a file", hint=f"Its folder is {path.parent}")
        if not is_folder(path):
            raise StorageError(f"{what}: there is no folder {path}", hint="Check the spelling, or create the folder.")
        return path

    def file(self, text: str, what: str) -> Path:
        """An existing file. Raises StorageError."""
        path = self.path(text, what)
        if not is_file(path):
            raise StorageError(f"{what}: there is no file {path}", hint="Check the spelling.")
        return path

    def inside(self, text: str, what: str) -> Path:
        """A path inside the workspace after links are resolved. Raises StorageError."""
        path = self.path(text, what)
        if self.root.resolve() not in path.parents:
            raise StorageError(f"{what} {path} is outside {self.root}", hint="Choose a path inside this folder.")
        return path

    def relative(self, path: Path) -> str:
        """``path`` relative to the workspace if it is inside, else unchanged."""
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)


def playable(path: Path) -> Path:
    """A copy of an audio file that the browser may fetch and can play.

    Raises:
        AudioError: it is not an audio file.
        StorageError: the cache cannot be written.
    """
    from acestep.audio.files import probe_audio

    probe_audio(path)
    about = path.stat()
    key = hashlib.sha256(f"{path.resolve()}|{about.st_mtime_ns}|{about.st_size}".encode()).hexdigest()[:24]
    direct = path.suffix.lower() in _PLAYED_BY_BROWSERS
    target = cache_folder("preview") / f"{key}{path.suffix.lower() if direct else '.wav'}"
    if not exists(target):
        with storage_errors(target):
            partial = target.with_name(f".{os.getpid()}-{target.name}")
            (shutil.copyfile if direct else _decode_to)(path, partial)
            renames.replace(partial, target)
    return target


def cache_folder(name: str) -> Path:
    """A folder of the cache from which Gradio serves files."""
    folder = Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio") / name
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _decode_to(source: Path, target: Path) -> None:
    import soundfile

    from acestep.audio.decode import open_audio

    with open_audio(source) as stream:
        channels = stream.num_channels
        with soundfile.SoundFile(target, "w", stream.sample_rate_hz, channels, "PCM_16", format="WAV") as file:
            while len(block := stream.read(stream.sample_rate_hz * 30)):
                file.write(block)
