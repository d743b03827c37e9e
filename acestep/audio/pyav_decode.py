"""Decodes audio with PyAV, whose wheels contain the codecs of FFmpeg.

PyAV keeps the messages of these libraries from the terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.container import InputContainer
from numpy.typing import NDArray

from acestep.audio.stream import MIN_DURATION_S, length_remark
from acestep.core.errors import AudioError

# Python opens the file, and FFmpeg may use no protocol at all: a playlist cannot make it open anything else.
_OPTIONS = {"protocol_whitelist": "none"}

# Formats without a header, and MP3, whose header is often wrong. The durations of their packets are exact.
_HEADERLESS_FORMATS = ("aac", "ac3", "eac3", "dts")
_COUNTED_FORMATS = ("mp3", *_HEADERLESS_FORMATS)


class PyAvStream:
    """The main audio track of a file, as a ``Stream``."""

    def __init__(self, path: Path) -> None:
        """Raises AudioError: the file has no audio that can be decoded."""
        self._path, self._file = path, path.open("rb")
        self._num_read = self._num_packets = self._num_damaged = 0
        self.remarks: list[str] = []
        self._rest: NDArray[np.float32]
        try:
            self._container = _open_container(path, self._file)
            self._open_track()
        except AudioError:
            self._file.close()
            raise

    def read(self, frames: int) -> NDArray[np.float32]:
        """The next [n, channels]; n < frames only at the end. Raises AudioError if most of the file is damaged."""
        blocks, num = [self._rest], len(self._rest)
        while num < frames and (frame := next(self._frames, None)) is not None:
            blocks.append(self._samples(frame))
            num += len(blocks[-1])
        joined = np.concatenate(blocks)
        block, self._rest = joined[:frames], joined[frames:]
        self._num_read += len(block)
        if len(block) < frames:
            self._check_end()
        return block

    def close(self) -> None:
        self._container.close()
        self._file.close()

    def _open_track(self) -> None:
        track = self._container.streams.best("audio")
        codec = getattr(track, "codec_context", None)
        if track is None or codec is None:  # no codec: an encrypted or unknown format
            raise _not_audio(self._path)
        self._track: Any = track
        self._stated_s = self._stated_duration_s()
        counted = self._container.format.name in _COUNTED_FORMATS or not self._stated_s
        counted_s = self._count_packets() if counted else 0.0
        self._frames = self._decode()
        first = next(self._frames, None)
        if first is None:
            raise _not_audio(self._path)
        self.duration_s = counted_s or self._stated_s
        self.sample_rate_hz, self.num_channels = first.sample_rate, first.layout.nb_channels
        self._layout = first.layout
        names = [channel.name for channel in first.layout.channels]
        self.speakers: Sequence[str] | None = names if len(set(names)) == len(names) > 1 else None
        self.subtype = "PCM_16" if first.format.bytes < 3 else "PCM_24"
        self._rest = self._samples(first)

    def _stated_duration_s(self) -> float:
        """The length in seconds that the file states, 0 if it states none."""
        if self._container.format.name in _HEADERLESS_FORMATS:  # FFmpeg guesses it from the bit rate
            return 0.0
        if self._track.duration is not None:
            return float(self._track.duration * self._track.time_base)
        return float(self._container.duration or 0) / av.time_base

    def _count_packets(self) -> float:
        """The sum of the durations of all packets in seconds. Leaves the container at its beginning."""
        total = 0
        with suppress(av.error.FFmpegError, OSError):  # decoding meets the same error
            for packet in self._container.demux(self._track):
                total += packet.duration or 0
        seconds = float(total * self._track.time_base)
        self._container.close()
        self._file.seek(0)
        self._container = _open_container(self._path, self._file)
        self._track = self._container.streams.best("audio")
        return seconds

    def _decode(self) -> Iterator[AudioFrame]:
        packets = self._container.demux(self._track)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.error.FFmpegError:  # a player stops here
                self._num_damaged += 1
                return
            except OSError as problem:
                raise _unreadable(self._path, problem) from None
            self._num_packets += 1
            try:
                yield from packet.decode()
            except av.error.FFmpegError:  # a player skips it
                self._num_damaged += 1

    def _samples(self, frame: AudioFrame) -> NDArray[np.float32]:
        """[n, channels] at the rate and with the channels of the first frame."""
        if (frame.sample_rate, frame.layout.nb_channels) == (self.sample_rate_hz, self.num_channels):
            return _to_float(frame)
        mono = frame.layout.nb_channels == 1  # FFmpeg would attenuate it
        converter = av.AudioResampler("fltp", frame.layout if mono else self._layout, self.sample_rate_hz)
        parts = [_to_float(part) for part in [*converter.resample(frame), *converter.resample(None)]]
        return np.repeat(np.concatenate(parts), self.num_channels if mono else 1, axis=1)

    def _check_end(self) -> None:
        if self._num_damaged * 2 > self._num_packets:
            message = f"{self._path} is damaged: {self._num_damaged} of {self._num_packets} packets cannot be decoded"
            raise AudioError(message, hint="Copy or download it again.")
        decoded_s = self._num_read / self.sample_rate_hz
        if decoded_s < MIN_DURATION_S:
            message = f"{self._path} is damaged: only {decoded_s:.2f} s of its audio can be decoded"
            raise AudioError(message, hint="Copy or download it again.")
        if self._num_damaged:
            self.remarks.append(f"has {self._num_damaged} damaged packets, which are skipped")
        self.remarks += filter(None, [length_remark(self._stated_s or decoded_s, decoded_s)])


def _open_container(path: Path, file: Any) -> InputContainer:
    try:
        container: InputContainer = av.open(file, options=_OPTIONS, metadata_errors="replace")
    except (av.error.FFmpegError, ValueError):
        raise _not_audio(path) from None
    except OSError as problem:
        raise _unreadable(path, problem) from None
    return container


def _unreadable(path: Path, problem: OSError) -> AudioError:
    return AudioError(f"{path} cannot be read: {problem.strerror}", hint="Check the disk.")


def _not_audio(path: Path) -> AudioError:
    hint = "Remove it, or convert it to WAV, FLAC or MP3."
    return AudioError(f"{path} is not an audio file, or its format is not supported or encrypted", hint=hint)


def _to_float(frame: AudioFrame) -> NDArray[np.float32]:
    """[n, channels] in [-1, 1] of a frame in any sample format."""
    samples: NDArray[Any] = frame.to_ndarray()
    channels = samples.T if frame.format.is_planar else samples.reshape(-1, frame.layout.nb_channels)
    kind = channels.dtype
    if kind.kind == "f":
        return channels.astype(np.float32)
    offset, scale = (128.0, 128.0) if kind == np.uint8 else (0.0, 2.0 ** (8 * kind.itemsize - 1))
    return ((channels - offset) / scale).astype(np.float32)
