"""The captioner's page. Start it with ``python launch.py --mode caption``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from acestep.captioning.elevenlabs import ElevenLabsTranscriber
    from acestep.captioning.gemini import GeminiCaptioner
    from acestep.captioning.whisper import WhisperTranscriber
    from acestep.ui.serve import Page


def build_page() -> Page:
    """The page, not yet served."""
    from acestep.ui.placeholder import build_captioner
    from acestep.ui.serve import Page

    return Page(build_captioner())


__all__ = ["ElevenLabsTranscriber", "GeminiCaptioner", "WhisperTranscriber", "build_page"]

_SERVICES = {"WhisperTranscriber": "whisper", "ElevenLabsTranscriber": "elevenlabs", "GeminiCaptioner": "gemini"}


def __getattr__(name: str) -> Any:
    """The online services, imported when they are asked for."""
    if name not in _SERVICES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"acestep.captioning.{_SERVICES[name]}"), name)


if __name__ == "__main__":
    raise SystemExit("Start the captioner with: python launch.py --mode caption")
