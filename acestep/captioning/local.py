"""The local captioner and transcriber, Qwen2.5-Omni models.

A song up to ``window_s`` is processed in one call, as the models were trained. A longer song is split into windows of
equal length. A final, text-only call of the same model merges the captions of the windows. Lyrics come from overlapping
windows and are joined (``lyrics.join_lyrics``); a window whose lyrics exceed the token limit is split in half and
processed again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from numpy.typing import NDArray

from acestep.captioning import prompts
from acestep.captioning.configs import CaptionJob
from acestep.captioning.lyrics import join_lyrics, parse_lyrics
from acestep.captioning.memory_check import read_sizes, require_memory
from acestep.captioning.omni import OmniModel, Sampling
from acestep.captioning.omni_memory import OmniSizes
from acestep.captioning.parse import parse_answer, strip_role
from acestep.captioning.schema import SAMPLE_RATE_HZ, Description, Lyrics, Report, SongAudio, Stop
from acestep.core.errors import CaptionError, CheckpointError, ConfigError, DownloadError
from acestep.core.events import PhaseStarted
from acestep.core.paths import checkpoint_roots, typed_path
from acestep.core.untrusted import is_file, is_folder
from acestep.models.catalog import CATALOG
from acestep.models.device import Selection, choose_device, choose_dtype
from acestep.models.download import download

Audio = NDArray[np.float32]

_OVERLAP_S = 4.0  # overlap of lyrics windows, so that no line is lost between two
_SHORTEST_S = 30.0  # shorter windows are not split in half
_METADATA_TOKENS = 100  # for the three metadata lines after the caption
_MODEL_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja"]


class LocalCaptioner:
    """Describes songs with ``acestep-captioner`` or another Qwen2.5-Omni."""

    needs_audio = True

    def __init__(self, model: OmniModel, name: str, config: CaptionJob) -> None:
        self.name, self._model = name, model
        self._window_s = min(config.window_s, model.max_window_s)
        self._sampling = Sampling(config.max_tokens + _METADATA_TOKENS, config.temperature, config.top_p, config.seed)

    @classmethod
    def load(cls, config: CaptionJob, report: Report) -> LocalCaptioner:
        """Raises CheckpointError, DownloadError, ConfigError, CaptionError (memory)."""
        return cls(*_load(config.captioner_model, config, report), config)

    def describe(self, song: SongAudio, *, with_lyrics: bool, stop: Stop) -> Description:
        """Caption, key, time signature and genre. Raises CaptionError, JobCancelled."""
        audio = _audio_of(song)
        answers = [
            parse_answer(self._model.generate(prompts.DESCRIBE_WITH_METADATA, window, self._sampling, stop).text)
            for window in split_windows(audio, self._window_s)
        ]
        answers = [answer for answer in answers if answer.caption]
        if not answers:
            raise CaptionError(f"{self.name} returned no caption for {song.path.name}", hint="Try again.")
        return answers[0] if len(answers) == 1 else self._merged(answers, stop)

    def _merged(self, answers: list[Description], stop: Stop) -> Description:
        """Merge the descriptions of the windows. Missing values are the most frequent ones of the windows."""
        question = prompts.merge([answer.caption for answer in answers])
        whole = parse_answer(self._model.generate(question, None, self._sampling, stop).text)
        if not whole.caption:
            whole = replace(whole, caption=answers[0].caption)
        return replace(
            whole,
            genre=whole.genre or _most_frequent([answer.genre for answer in answers]),
            keyscale=whole.keyscale or _most_frequent([answer.keyscale for answer in answers]),
            timesignature=whole.timesignature or _most_frequent([answer.timesignature for answer in answers]),
        )

    def close(self) -> None:
        self._model.unload()


class LocalTranscriber:
    """Transcribes lyrics with ``acestep-transcriber`` or another Qwen2.5-Omni."""

    needs_audio = True

    def __init__(self, model: OmniModel, name: str, config: CaptionJob) -> None:
        self.name, self._model = name, model
        self._window_s = min(config.window_s, model.max_window_s)
        self._sampling = Sampling(config.lyrics_max_tokens, config.lyrics_temperature, config.top_p, config.seed)

    @classmethod
    def load(cls, config: CaptionJob, report: Report) -> LocalTranscriber:
        """Raises CheckpointError, DownloadError, ConfigError, CaptionError (memory)."""
        return cls(*_load(config.transcriber_model, config, report), config)

    def transcribe(self, song: SongAudio, *, stop: Stop) -> Lyrics:
        """Lyrics of the whole song. Raises CaptionError, JobCancelled."""
        windows = split_windows(_audio_of(song), self._window_s, _OVERLAP_S)
        return join_lyrics([part for window in windows for part in self._transcribe_window(window, stop)])

    def _transcribe_window(self, audio: Audio, stop: Stop) -> list[Lyrics]:
        """The lyrics of a window, or of its halves if they exceed the token limit."""
        answer = self._model.generate(prompts.TRANSCRIBE, audio, self._sampling, stop)
        seconds = len(audio) / SAMPLE_RATE_HZ
        if answer.complete or seconds < _SHORTEST_S:
            return [replace(parse_lyrics(strip_role(answer.text)), complete=answer.complete)]
        halves = split_windows(audio, seconds / 2 + _OVERLAP_S / 2, _OVERLAP_S)
        return [part for half in halves for part in self._transcribe_window(half, stop)]

    def close(self) -> None:
        self._model.unload()


def split_windows(audio: Audio, window_s: float, overlap_s: float = 0.0) -> list[Audio]:
    """Split audio [S] into windows of equal length, at most ``window_s``, that overlap by ``overlap_s`` seconds."""
    size, overlap = int(window_s * SAMPLE_RATE_HZ), int(overlap_s * SAMPLE_RATE_HZ)
    count = 1 if len(audio) <= size else math.ceil((len(audio) - overlap) / (size - overlap))
    step = math.ceil((len(audio) - overlap) / count)
    return [audio[start : start + step + overlap] for start in range(0, step * count, step)]


def find_omni_model(
    name: str, config: CaptionJob, report: Report, check_memory: Callable[[str, OmniSizes], None] | None = None
) -> Path:
    """The folder of a model: a path, a folder of that name in the checkpoints folders, or a download.

    Args:
        check_memory: called with name and sizes before one of ACE-Step's models is downloaded.

    Raises:
        CheckpointError: not found, and downloads are off.
        DownloadError.
    """
    path = typed_path(name)
    if is_folder(path):
        return path
    base = name.strip().rpartition("/")[2]
    roots = checkpoint_roots(config.checkpoints)
    for root in roots:
        if is_file(root / base / "config.json"):
            return root / base
    if not config.download or path.is_absolute() or not base:
        searched = ", ".join(str(root) for root in roots)
        raise CheckpointError(
            f"{name!r} was not found in {searched}", hint="Download it, or set the path of its folder."
        )
    published = base in (model.name for model in CATALOG)
    if published and check_memory is not None:
        check_memory(base, OmniSizes())
    report(PhaseStarted(phase=f"Downloading {name}, about 22 GB"))
    if published:
        return download([base], config.checkpoints or roots[-1], on_progress=report)[0]
    try:
        return Path(snapshot_download(name, allow_patterns=_MODEL_FILES))
    except (HfHubHTTPError, OSError, ValueError) as problem:
        raise DownloadError(f"{name} could not be downloaded: {problem}", hint="Check the name.") from None


def _load(name: str, config: CaptionJob, report: Report) -> tuple[OmniModel, str]:
    """The model and the name of its folder, after a check of the free memory."""
    device = choose_device(config.device)
    if config.quantization != "none" and torch.device(device.value).type != "cuda":
        raise ConfigError(
            [f"quantization {config.quantization} needs an NVIDIA GPU, the device is {device.value}"],
            hint="Choose none, or another device.",
        )
    dtype = _choose_dtype(device.value, config.dtype)
    settings: dict[str, Any] = {"device": device.value, "dtype": dtype.value, "quantization": config.quantization}
    new_tokens = max(config.max_tokens + _METADATA_TOKENS, config.lyrics_max_tokens)

    def check_memory(model: str, sizes: OmniSizes) -> None:
        require_memory(model, sizes, **settings, window_s=config.window_s, new_tokens=new_tokens)

    folder = find_omni_model(name, config, report, check_memory)
    check_memory(folder.name, read_sizes(folder))
    report(
        PhaseStarted(phase=f"Loading {folder.name} on {device.value} ({device.reason}), {dtype.value} ({dtype.reason})")
    )
    return OmniModel.load(folder, **settings), folder.name


def _choose_dtype(device: str, requested: str) -> Selection[torch.dtype]:
    """As ``choose_dtype``, but ``auto`` selects bf16 on every GPU: the model is too large for fp32."""
    dtype = choose_dtype(device, requested)
    if requested == "auto" and dtype.value == torch.float32 and torch.device(device).type != "cpu":
        return Selection(torch.bfloat16, "half the memory of fp32; slow, because it is emulated")
    return dtype


def _audio_of(song: SongAudio) -> Audio:
    assert song.audio is not None, "songs are decoded for backends with needs_audio = True"
    return song.audio


def _most_frequent(values: list[str]) -> str:
    return Counter(value for value in values if value).most_common(1)[0][0] if any(values) else ""
