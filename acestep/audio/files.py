"""Sound files in and out. Knowing what a file is does not import torch; loading it does.

What users meet: the format is told by the content, truncated files by their own header; whatever cannot be trained
on is refused by name, with the reason.
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

SILENCE = 1e-4  # -80 dBFS: a peak below it is the noise of a converter

# Format, kind of samples and how hard to compress (0 to 1: about 270 kbit/s for MP3 and Opus alike).
# Opus in .ogg: 60 s of Vorbis in one write crash libsndfile 1.2.2.
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
    """What the header of a sound file says."""

    duration_s: float
    sample_rate_hz: int
    num_channels: int


def probe_audio(path: Path) -> AudioInfo:
    """Length and form of a file without decoding it. Raises AudioError for what can be seen to be unusable."""
    with open_audio(path) as stream:
        return AudioInfo(stream.duration_s, stream.sample_rate_hz, stream.num_channels)


def load_audio(path: Path, *, max_duration_s: float | None = None) -> Tensor:
    """[2, S] float32 at 48 kHz, cut to ``max_duration_s``; no more than that is decoded.

    Mono is doubled and surround sound mixed down with its centre (``channels.to_stereo``). Levels stay as they are.

    Raises:
        AudioError: not readable, no sound, damaged or cut off, not a number somewhere, silent, shorter than a second.
    """
    import torch

    samples, rate_hz = _decode(path, max_duration_s)
    if not np.isfinite(samples).all():
        raise AudioError(f"{path} holds samples that are not numbers", hint="Export it again from its source.")
    if np.abs(samples).max(initial=0.0) < SILENCE:
        raise AudioError(f"{path} is silent", hint="Remove it, or check its export.")
    audio = resample(torch.from_numpy(samples), rate_hz)
    return audio if max_duration_s is None else audio[:, : round(max_duration_s * SAMPLE_RATE_HZ)].contiguous()


def resample(audio: Tensor, rate_hz: int) -> Tensor:
    """[C, S] at 48 kHz of [C, S'] at ``rate_hz``.

    The filter is the one that librosa calls "kaiser_best" (torchaudio's tutorial on resampling names the figures).
    A rate that shares no large factor with 48,000 would need a filter of gigabytes: it is taken to the nearest 10 Hz,
    which no ear can tell.
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
    """Write [C, S] in [-1, 1] (what is beyond is clipped) in the format of the suffix, whole or not at all.

    WAV and FLAC have 24 bits; MP3 and Opus are written at 48 kHz, ``.ogg`` holds Opus.

    Raises:
        AudioError: unknown suffix, nothing to write, or samples that are not numbers.
        DiskFull, NotWritable, StorageError.
    """
    if path.suffix.lower() not in _FORMATS:
        raise AudioError(f"{path} cannot be written as {path.suffix or 'a file without suffix'}", hint=_suffix_hint())
    kind, subtype, compression = _FORMATS[path.suffix.lower()]
    if kind not in _ANY_RATE:
        audio, sample_rate_hz = resample(audio.detach().cpu().float(), sample_rate_hz), SAMPLE_RATE_HZ
    samples = audio.detach().cpu().float().numpy().T
    if not samples.size or not np.isfinite(samples).all():
        raise AudioError(f"{path} is not written: the sound is empty or holds samples that are not numbers")
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate_hz, subtype, format=kind, compression_level=compression)
    write_bytes(path, buffer.getvalue())


def _decode(path: Path, max_duration_s: float | None) -> tuple[NDArray[np.float32], int]:
    """[2, S] and the rate in Hz, in blocks: what a header claims is not believed with memory."""
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
