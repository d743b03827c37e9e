"""Reads and writes audio files. Probing a file does not import torch; loading it does.

The format is detected from the content. A file that cannot be used for training is rejected with an error that names it
and the reason.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
from loguru import logger
from numpy.typing import NDArray

from acestep.audio.channels import to_stereo
from acestep.audio.decode import open_audio
from acestep.core.errors import AudioError
from acestep.core.files import write_bytes

if TYPE_CHECKING:
    from torch import Tensor

SAMPLE_RATE_HZ = 48_000
SILENCE = 1e-4  # -80 dBFS: a lower peak is converter noise
_MOSTLY_SILENT = 0.95

# What a scan takes for audio; the sound of a video counts. PyAV decodes all of them.
AUDIO_EXTENSIONS = (
    ".wav", ".wave", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".m4b", ".aac", ".aiff", ".aif", ".aifc",
    ".wma", ".wv", ".ape", ".tta", ".caf", ".mka", ".mp2", ".mpa", ".mpc", ".ac3", ".eac3", ".dts", ".au", ".snd",
    ".w64", ".voc", ".amr", ".spx", ".dsf", ".tak", ".shn", ".3ga",
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".wmv", ".flv", ".3gp", ".mpg", ".mpeg", ".ogv",
)  # fmt: skip

_LOSSLESS = {".wav": "WAV", ".flac": "FLAC"}  # written by soundfile, with 24 bits
_BLOCK_S = 30

Report = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What the header of an audio file states."""

    duration_s: float
    sample_rate_hz: int
    num_channels: int


def probe_audio(path: Path) -> AudioInfo:
    """Duration and format of a file, without decoding it. Raises AudioError if it is visibly unusable."""
    with open_audio(path) as stream:
        return AudioInfo(stream.duration_s, stream.sample_rate_hz, stream.num_channels)


def load_audio(path: Path, *, max_duration_s: float | None = None, report: Report = logger.warning) -> Tensor:
    """[2, S] float32 at 48 kHz, truncated to ``max_duration_s``; only that much is decoded.

    Other channel counts are mixed to stereo (``channels.to_stereo``). Levels are unchanged.

    Args:
        report: called with a sentence for each defect of a file that is used nevertheless, such as damaged frames.

    Raises:
        AudioError: the file is unreadable, mostly damaged, silent, shorter than one second, or has NaN samples.
    """
    import torch

    samples, rate_hz = _decode(path, max_duration_s, report)
    if not np.isfinite(samples).all():
        raise AudioError(f"{path} contains NaN or infinite samples", hint="Export it again from its source.")
    if np.abs(samples).max(initial=0.0) < SILENCE:
        raise AudioError(f"{path} is silent", hint="Remove it, or check its export.")
    if (share := _silent_share(samples, rate_hz)) > _MOSTLY_SILENT:
        report(f"{path} is {share:.0%} silent.")
    audio = resample(torch.from_numpy(samples), rate_hz)
    return audio if max_duration_s is None else audio[:, : round(max_duration_s * SAMPLE_RATE_HZ)].contiguous()


def _silent_share(samples: NDArray[np.float32], rate_hz: int) -> float:
    """The fraction of 100 ms windows of [2, S] that are silent."""
    window = max(rate_hz // 10, 1)
    whole = np.abs(samples[:, : samples.shape[1] // window * window])
    return float((whole.reshape(2, -1, window).max(axis=(0, 2)) < SILENCE).mean())


def resample(audio: Tensor, rate_hz: int) -> Tensor:
    """[C, S] at 48 kHz of [C, S'] at ``rate_hz``.

    The filter equals librosa's "kaiser_best"; its parameters are from torchaudio's resampling tutorial. A rate without
    a large common factor with 48,000 would need a filter of gigabytes, so it is rounded to 10 Hz, which is inaudible.
    """
    from torchaudio.functional import resample as filtered

    if rate_hz == SAMPLE_RATE_HZ:
        return audio
    if math.gcd(rate_hz, SAMPLE_RATE_HZ) < 10:
        rate_hz = max(round(rate_hz, -1), 10)
    resampled: Tensor = filtered(
        audio,
        rate_hz,
        SAMPLE_RATE_HZ,
        lowpass_filter_width=64,
        rolloff=0.9475937167399596,
        resampling_method="sinc_interp_kaiser",
        beta=14.769656459379492,
    )
    return resampled


def write_audio(path: Path, audio: Tensor, sample_rate_hz: int = SAMPLE_RATE_HZ) -> None:
    """Write [C, S] in [-1, 1] atomically, in the format of the suffix; values outside are clipped.

    WAV and FLAC have 24 bits; the other formats are written at 48 kHz, ``.ogg`` holds Opus.

    Raises:
        AudioError: the suffix is unknown, or the audio is empty or has NaN or infinite samples.
        DiskFull, NotWritable, StorageError.
    """
    from acestep.audio.pyav_encode import ENCODERS, encode

    suffix = path.suffix.lower()
    if suffix not in _LOSSLESS and suffix not in ENCODERS:
        message = f"{path} cannot be written as {path.suffix or 'a file without suffix'}"
        raise AudioError(message, hint=f"Use one of {' '.join([*_LOSSLESS, *ENCODERS])}.")
    audio = audio.detach().cpu().float()
    if not audio.numel() or not audio.isfinite().all():
        raise AudioError(f"{path} was not written: the audio is empty or contains NaN or infinite samples")
    if suffix in ENCODERS:
        data = encode(resample(audio, sample_rate_hz).clamp(-1, 1).numpy(), SAMPLE_RATE_HZ, suffix)
    else:
        buffer = io.BytesIO()
        soundfile.write(buffer, audio.numpy().T, sample_rate_hz, "PCM_24", format=_LOSSLESS[suffix])
        data = buffer.getvalue()
    write_bytes(path, data)


def _decode(path: Path, max_duration_s: float | None, report: Report) -> tuple[NDArray[np.float32], int]:
    """[2, S] and the rate in Hz. Reads in blocks, so that a wrong length in a header allocates no memory."""
    with open_audio(path) as stream:
        rate_hz = stream.sample_rate_hz
        left = math.inf if max_duration_s is None else math.ceil(max_duration_s * rate_hz)
        blocks = []
        while left > 0:
            wanted = int(min(left, _BLOCK_S * rate_hz))
            block = stream.read(wanted)
            blocks.append(block)
            left = left - len(block) if len(block) == wanted else 0
        for remark in stream.remarks:
            report(f"{path} {remark}.")
        return to_stereo(np.concatenate(blocks), stream.speakers), rate_hz
