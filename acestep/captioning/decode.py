"""Songs made ready to be heard, the next one while the present one is worked on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from acestep.audio.files import SAMPLE_RATE_HZ, load_audio
from acestep.captioning.base import RATE_HZ
from acestep.captioning.plan import Task


def decoded(tasks: list[tuple[Task, bool]]) -> Iterator[tuple[Task, Future[Any]]]:
    """Each song with its sound, if that is needed: [S] mono at 16 kHz, or None. The next one is on its way."""
    with ThreadPoolExecutor(1, thread_name_prefix="decode") as pool:
        ahead: list[Future[Any]] = []
        try:
            for number, (task, _) in enumerate(tasks):
                follow_events = tasks[number + len(ahead) : number + 2]
                ahead += [pool.submit(_load, later.known.audio, needed) for later, needed in follow_events]
                yield task, ahead.pop(0)
        finally:
            for future in ahead:
                future.cancel()


def _load(path: Path, needed: bool) -> Any:
    """Raises AudioError."""
    if not needed:
        return None
    from torchaudio.functional import resample

    return resample(load_audio(path).mean(dim=0), SAMPLE_RATE_HZ, RATE_HZ).numpy()
