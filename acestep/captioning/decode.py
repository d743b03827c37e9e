"""Decode songs in a background thread, one ahead of the song in progress."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from acestep.audio.files import SAMPLE_RATE_HZ, load_audio
from acestep.captioning import schema
from acestep.captioning.labeling_plan import SongPlan


def decode_ahead(songs: list[tuple[SongPlan, bool]]) -> Iterator[tuple[SongPlan, Future[Any]]]:
    """Yield each song with its audio, [S] mono at 16 kHz, or None where the flag is False."""
    with ThreadPoolExecutor(1, thread_name_prefix="decode") as pool:
        ahead: list[Future[Any]] = []
        try:
            for number, (song, _) in enumerate(songs):
                following = songs[number + len(ahead) : number + 2]
                ahead += [pool.submit(_load, later.known.audio, needed) for later, needed in following]
                yield song, ahead.pop(0)
        finally:
            for future in ahead:
                future.cancel()


def _load(path: Path, needed: bool) -> Any:
    """Raises AudioError."""
    if not needed:
        return None
    from torchaudio.functional import resample

    return resample(load_audio(path).mean(dim=0), SAMPLE_RATE_HZ, schema.SAMPLE_RATE_HZ).numpy()
