"""MP3 files without a length header.

libsndfile 1.2.2 estimates their length from the file size and the bit rate of the first frame and stops there, which
can lose most of a song with a variable bit rate. Such a file gets a silent first frame that holds the number of frames
(the "Xing" header, http://gabriel.mp3-tech.org/mp3infotag.html).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

_LENGTH_TAGS = (b"Xing", b"Info", b"VBRI")

# ISO 11172-3 and 13818-3, layer III, by the index in the frame header.
_KBPS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBPS_LOW = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_RATES_HZ = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}  # MPEG 1, 2, 2.5


@dataclass(frozen=True, slots=True)
class _Frame:
    version: int
    rate_hz: int
    mono: bool
    num_bytes: int


def with_length(path: Path) -> io.BytesIO | None:
    """The content of an MP3 file with a length header; None if it has one already, or is not an MP3 file."""
    with path.open("rb") as file:
        start = _skip_tags(file.read(10))
        file.seek(start)
        head = file.read(4096)
        first = _frame(head, 0)
        if first is None or any(tag in head[: first.num_bytes] for tag in _LENGTH_TAGS):
            return None
        file.seek(start)
        data = file.read()
    return io.BytesIO(_length_frame(data, first, _count(data, first)) + data)


def _skip_tags(head: bytes) -> int:
    """Offset of the audio after an ID3v2 tag, whose size has seven bits per byte."""
    if head[:3] != b"ID3":
        return 0
    return 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))


def _frame(data: bytes, at: int) -> _Frame | None:
    """The layer III frame whose header is at offset ``at``."""
    if len(data) < at + 4 or data[at] != 0xFF or data[at + 1] & 0xE6 != 0xE2:
        return None
    version, rate, bits = data[at + 1] >> 3 & 3, data[at + 2] >> 2 & 3, data[at + 2] >> 4
    if version == 1 or rate == 3 or bits in (0, 15):
        return None
    kbps, factor = (_KBPS[bits - 1], 144_000) if version == 3 else (_KBPS_LOW[bits - 1], 72_000)
    rate_hz = _RATES_HZ[version][rate]
    return _Frame(version, rate_hz, data[at + 3] >> 6 == 3, factor * kbps // rate_hz + (data[at + 2] >> 1 & 1))


def _count(data: bytes, first: _Frame) -> int:
    """Number of complete frames like the first; tags and damaged data between them are skipped."""
    count, at = 0, 0
    while at >= 0:
        frame = _frame(data, at)
        if frame and (frame.version, frame.rate_hz) == (first.version, first.rate_hz):
            at += frame.num_bytes
            count += at <= len(data)
        else:
            at = data.find(b"\xff", at + 1)
    return count


def _length_frame(data: bytes, first: _Frame, count: int) -> bytes:
    """A silent frame like the first, at 128 (MPEG 1) or 64 kbit/s, with room for the count."""
    side_bytes = (17 if first.mono else 32) if first.version == 3 else (9 if first.mono else 17)
    bits = (9 if first.version == 3 else 8) << 4
    header = bytes([0xFF, data[1] | 1, bits | data[2] & 0x0C, data[3]])
    frame = _frame(header, 0)
    assert frame is not None
    return (header + bytes(side_bytes) + b"Xing" + (1).to_bytes(4) + count.to_bytes(4)).ljust(frame.num_bytes, b"\0")
