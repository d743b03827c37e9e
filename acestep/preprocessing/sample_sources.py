"""Which songs are to be done, with which text, and which are up to date already. Loads no model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acestep.core.errors import AceStepError, AudioError, DatasetError, TensorError
from acestep.core.files import sha256_of
from acestep.core.paths import safe_name
from acestep.dataset.labels import is_sung
from acestep.dataset.prompt import training_texts
from acestep.dataset.sample import Dataset, Sample
from acestep.models.checkpoint import Checkpoint, encoder_fingerprint
from acestep.models.text import INSTRUMENTAL, TEXT_TEMPLATE_VERSION, UNKNOWN_LANGUAGE
from acestep.preprocessing.configs import PreprocessJob
from acestep.tensors.manifest import SampleDetails, sample_details
from acestep.tensors.record import FORMAT_VERSION, decode_record

# Tell where a song and a model were, not what the tensors are: they do not make a tensor out of date.
_PLACES = ("audio_path", "filename", "model_checkpoint")


@dataclass(frozen=True, slots=True)
class Song:
    """One song to be encoded. ``metadata`` is what its tensor file will carry, but for the encoded duration."""

    name: str
    audio: Path
    file: str
    text: str
    lyrics: str
    language: str
    metadata: dict[str, Any]

    @property
    def content_hash(self) -> str:
        return str(self.metadata["content_hash"])

    @property
    def encode_seed(self) -> int:
        """Seeds the VAE's sampling: of the song's own content, so that no other song changes it."""
        text = f"{self.metadata['audio_sha256']} {self.metadata['seed']}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1  # 63 bits: what torch accepts


Refuse = Callable[[str, AceStepError], None]


def apply_overrides(dataset: Dataset, config: PreprocessJob) -> Dataset:
    """The dataset with the tag, its position and the genre ratio of the job, where the job names them."""
    wanted = {"custom_tag": config.tag, "tag_position": config.tag_position, "genre_ratio": config.genre_ratio}
    given = {key: value for key, value in wanted.items() if value is not None}
    samples = dataset.samples
    if config.tag is not None:
        samples = [sample.model_copy(update={"custom_tag": config.tag}) for sample in samples]
    return Dataset(metadata=dataset.metadata.model_copy(update=given), samples=samples)


def plan_songs(
    dataset: Dataset, root: Path, config: PreprocessJob, checkpoint: Checkpoint, precision: str, refuse: Refuse
) -> Iterator[Song]:
    """Each song that can be encoded, in the dataset's order; ``refuse`` is told of every other.

    Args:
        root: folder that relative audio paths start from, and that names of songs are told relative to.

    Raises:
        DatasetError: unlabelled songs are wanted, but there is no tag to describe them.
    """
    texts = _texts(dataset, config)
    common = {
        "format_version": FORMAT_VERSION,
        "text_template_version": TEXT_TEMPLATE_VERSION,
        "encoder_fingerprint": encoder_fingerprint(checkpoint),
        "model_checkpoint": checkpoint.name,
        "tag_position": dataset.metadata.tag_position,
        "normalize": config.normalize,
        "max_duration_s": config.max_duration_s,
        "seed": config.seed,
        "dtype": precision,
    }
    taken: dict[str, str] = {}
    for sample, text in zip(dataset.samples, texts, strict=True):
        audio = root / sample.audio_path
        name = short_name(audio, root)
        try:
            song = _song(sample, audio, name, text, {**common, "custom_tag": _tag(dataset, sample)})
            _claim(taken, song)
        except AceStepError as problem:
            refuse(name, problem)
        else:
            yield song


def short_name(path: Path, root: Path) -> str:
    """How a file is called in messages and tensors: its path below ``root``, or its base name; never absolute."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def up_to_date(folder: Path, song: Song) -> SampleDetails | None:
    """The manifest's entry of a song whose tensor file is whole and current; None when it must be made."""
    path = folder / song.file
    if not path.is_file():
        return None
    data = path.read_bytes()
    try:
        record = decode_record(data, path.name)
    except TensorError:
        return None  # made again
    return sample_details(path.name, record, data) if record.metadata.get("content_hash") == song.content_hash else None


def _texts(dataset: Dataset, config: PreprocessJob) -> list[str]:
    """For each sample the text it is trained on; "" when there is none and it is to be refused."""
    labelled = iter(training_texts(dataset))
    texts = [next(labelled) if sample.labeled else "" for sample in dataset.samples]
    if not config.include_unlabelled:
        return texts
    texts = [text or _tag(dataset, sample) for text, sample in zip(texts, dataset.samples, strict=True)]
    if "" in texts:
        raise DatasetError(
            f"{texts.count('')} songs have no caption, and there is no tag to describe them",
            hint="Name a tag (--tag), or label the songs.",
        )
    return texts


def _tag(dataset: Dataset, sample: Sample) -> str:
    return (dataset.metadata.custom_tag or sample.custom_tag).strip()


def _song(sample: Sample, audio: Path, name: str, text: str, common: dict[str, Any]) -> Song:
    if not text:
        raise DatasetError(
            "has no caption", hint="Label it, or use --include-unlabelled to describe it by the tag alone."
        )
    sung = is_sung(sample.lyrics)
    lyrics = sample.lyrics if sung else INSTRUMENTAL
    language = sample.language if sung else UNKNOWN_LANGUAGE
    metadata = {
        **common,
        "audio_path": name,
        "filename": audio.name,
        "caption": text,
        "lyrics": lyrics,
        "language": language,
        "bpm": sample.bpm,
        "keyscale": sample.keyscale,
        "timesignature": sample.timesignature,
        "is_instrumental": not sung,
        "audio_sha256": _hash_audio(audio),
    }
    decides = {key: value for key, value in metadata.items() if key not in _PLACES}
    metadata["content_hash"] = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    return Song(name, audio, f"{safe_name(sample.id)}.pt", text, lyrics, language, metadata)


def _claim(taken: dict[str, str], song: Song) -> None:
    """Two songs must not write one file, on any file system."""
    key = song.file.casefold()
    if key in taken:
        raise DatasetError(
            f"has the id of {taken[key]}, {song.file!r}", hint="Give each song of the dataset its own id."
        )
    taken[key] = song.name


def _hash_audio(audio: Path) -> str:
    try:
        return sha256_of(audio)
    except OSError as problem:
        raise AudioError(
            f"cannot be read: {problem.strerror}", hint="Check that the file is there and readable."
        ) from None
