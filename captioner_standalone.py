"""The captioner: its page, clients for online services, and the command line of the ace-lora-trainer captioner.

python launch.py --mode caption                          the page
python captioner_standalone.py --ui --port 7862          the same
python captioner_standalone.py --input_dir MUSIC_FOLDER  captions without the page; see also python -m acestep caption
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acestep.core.standard_streams import use_utf8

if TYPE_CHECKING:
    from acestep.captioning.elevenlabs import ElevenLabsTranscriber
    from acestep.captioning.gemini import GeminiCaptioner
    from acestep.captioning.whisper import WhisperTranscriber
    from acestep.ui.serve import Page

__all__ = ["ElevenLabsTranscriber", "GeminiCaptioner", "WhisperTranscriber", "build_page", "main"]

_SERVICES = {"WhisperTranscriber": "whisper", "ElevenLabsTranscriber": "elevenlabs", "GeminiCaptioner": "gemini"}


def build_page() -> Page:
    """Build the page without serving it."""
    from acestep.ui.captioner.app import build_page

    return build_page()


def __getattr__(name: str) -> Any:
    """Import the service clients on first access."""
    if name not in _SERVICES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"acestep.captioning.{_SERVICES[name]}"), name)


def main(argv: list[str] | None = None) -> int:
    """Serve the page, or caption a folder. Returns the exit code of ``launch.py`` or ``python -m acestep``."""
    use_utf8()
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.ui:
        from launch import main as launch

        host = ["--host", arguments.host] if arguments.host else []
        return launch(["--mode", "caption", "--port", str(arguments.port), *host])
    if arguments.input_dir is None:
        parser.error("--input_dir is needed without --ui")
    return _caption(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="captioner_standalone.py", description="Caption the songs in a folder.")
    parser.add_argument("--ui", action="store_true", help="open the page instead")
    parser.add_argument("--port", type=int, default=7862, help="port of the page")
    parser.add_argument("--host", help="address of the page; only addresses of this computer are accepted here")
    parser.add_argument("--input_dir", type=Path, help="folder with the songs")
    parser.add_argument("--output_dir", type=Path, help="also copy the label files to this folder")
    parser.add_argument("--output_csv", type=Path, help="write a CSV table of all labels")
    parser.add_argument(
        "--model_path", default="ACE-Step/acestep-captioner", help="folder or repository of the captioner"
    )
    parser.add_argument("--max_tokens", type=int, default=512, help="maximum length of a caption in tokens")
    return parser


def _caption(arguments: argparse.Namespace) -> int:
    from acestep.cli.app import main as acestep

    command = ["caption", str(arguments.input_dir), "--captioner-model", arguments.model_path]
    command += ["--max-tokens", str(arguments.max_tokens)]
    command += ["--csv", str(arguments.output_csv)] if arguments.output_csv else []
    code = acestep(command)
    if code == 0 and arguments.output_dir is not None:
        _copy_labels(arguments.input_dir, arguments.output_dir)
    return code


def _copy_labels(songs: Path, target: Path) -> None:
    """Copy the label file of each song to the same relative path below ``target``."""
    from acestep.core.files import write_bytes
    from acestep.dataset.scan import scan_folder
    from acestep.dataset.sidecars import sidecar_path

    root = songs.expanduser().resolve()
    for sample in scan_folder(songs).dataset.samples:
        path = sidecar_path(Path(sample.audio_path))
        if path.is_file():
            copy = target.expanduser() / path.resolve().relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(copy, path.read_bytes())


if __name__ == "__main__":
    sys.exit(main())
