"""Reads and writes audio files. Probing a file does not import torch; loading it does.

The format is detected from the content, and truncation from the header. A file that cannot be used for training is
rejected with an error that names it and the reason.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
from numpy.typing import NDArray

from acestep.audio.channels import to_stereo
from acestep.audio.decode import FFMPEG_EXTENSIONS, SOUNDFILE_EXTENSIONS, open_audio
from acestep.core.errors import AudioError
from acestep.core.files import write_bytes

if TYPE_CHECKING:
    from torch import Tensor

SAMPLE_RATE_HZ = 48_000
AUDIO_EXTENSIONS = SOUNDFILE_EXTENSIONS + FFMPEG_EXTENSIONS

SILENCE = 1e-4  # -80 dBFS: a lower peak is converter noise

# Format, subtype and compression level (0 to 1; these give about 270 kbit/s for both MP3 and Opus).
# .ogg holds Opus: writing 60 s of Vorbis at once crashes libsndfile 1.2.2.
_FORMATS = {
    ".wav": ("WAV", "PCM_24", None),
    ".flac": ("FLAC", "PCM_24", None),
    ".mp3": ("MP3", "MPEG_LAYER_III", 0.0),
    ".opus": ("OGG", "OPUS", 0.5),
    ".ogg": ("OGG", "OPUS", 0.5),
}
_ANY_RATE = ("WAV", "FLAC")
_BLOCK_S = 30


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


def load_audio(path: Path, *, max_duration_s: float | None = None) -> Tensor:
    """[2, S] float32 at 48 kHz, truncated to ``max_duration_s``; only that much is decoded.

    Other channel counts are mixed to stereo (``channels.to_stereo``). Levels are unchanged.

    Raises:
        AudioError: the file is unreadable, damaged, truncated, silent, shorter than one second, or has NaN samples.
    """
    import torch

    samples, rate_hz = _decode(path, max_duration_s)
    if not np.isfinite(samples).all():
        raise AudioError(f"{path} contains NaN or infinite samples", hint="Export it again from its source.")
    if np.abs(samples).max(initial=0.0) < SILENCE:
        raise AudioError(f"{path} is silent", hint="Remove it, or check its export.")
    audio = resample(torch.from_numpy(samples), rate_hz)
    return audio if max_duration_s is None else audio[:, : round(max_duration_s * SAMPLE_RATE_HZ)].contiguous()


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

    WAV and FLAC have 24 bits; MP3 and Opus are written at 48 kHz, ``.ogg`` holds Opus.

    Raises:
        AudioError: the suffix is unknown, or the audio is empty or has NaN or infinite samples.
        DiskFull, NotWritable, StorageError.
    """
    if path.suffix.lower() not in _FORMATS:
        raise AudioError(f"{path} cannot be written as {path.suffix or 'a file without suffix'}", hint=_suffix_hint())
    kind, subtype, compression = _FORMATS[path.suffix.lower()]
    if kind not in _ANY_RATE:
        audio, sample_rate_hz = resample(audio.detach().cpu().float(), sample_rate_hz), SAMPLE_RATE_HZ
    samples = audio.detach().cpu().float().numpy().T
    if not samples.size or not np.isfinite(samples).all():
        raise AudioError(f"{path} was not written: the audio is empty or contains NaN or infinite samples")
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate_hz, subtype, format=kind, compression_level=compression)
    write_bytes(path, buffer.getvalue())


def _decode(path: Path, max_duration_s: float | None) -> tuple[NDArray[np.float32], int]:
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
        return to_stereo(np.concatenate(blocks), vorbis_order=stream.vorbis_order), rate_hz


def _suffix_hint() -> str:
    return f"Use one of {' '.join(_FORMATS)}."
