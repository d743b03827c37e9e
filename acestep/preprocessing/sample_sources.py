"""What each sample is encoded from: its audio file, its text, and a hash of everything that determines the tensors.

No model is loaded here.
"""

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
from acestep.core.untrusted import is_file, read_file
from acestep.dataset.labels import is_sung
from acestep.dataset.prompt import caption_with_tag, training_texts
from acestep.dataset.sample import Dataset, Sample
from acestep.models.checkpoint import Checkpoint, encoder_fingerprint
from acestep.models.text import INSTRUMENTAL, TEXT_TEMPLATE_VERSION, UNKNOWN_LANGUAGE
from acestep.preprocessing.configs import PreprocessJob
from acestep.tensors.manifest import SampleDetails, sample_details
from acestep.tensors.record import FORMAT_VERSION, decode_record

# Names of the audio file and the model. They do not affect the tensors, so the content hash excludes them.
_NOT_HASHED = ("audio_path", "filename", "model_checkpoint")


@dataclass(frozen=True, slots=True)
class SampleSource:
    """Everything needed to encode one sample.

    Attributes:
        name: the name used in messages, usually the audio path relative to the dataset folder.
        audio: the audio file.
        file: name of the tensor file to write.
        text: the caption or genre, with the activation tag.
        lyrics: the lyrics, or the instrumental marker.
        language: language code of the lyrics.
        metadata: metadata to store in the tensor file. The encoded duration is added after encoding.
    """

    name: str
    audio: Path
    file: str
    text: str
    lyrics: str
    language: str
    metadata: dict[str, Any]

    @property
    def content_hash(self) -> str:
        """SHA-256 over the audio, the labels, the settings and the encoders."""
        return str(self.metadata["content_hash"])

    @property
    def encode_seed(self) -> int:
        """Seed for sampling from the VAE posterior. It depends only on this audio file and the job's seed."""
        text = f"{self.metadata['audio_sha256']} {self.metadata['seed']}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1  # torch accepts 63 bits


ReportFailure = Callable[[str, AceStepError], None]
"""Called with the name of a sample and the reason why it is skipped."""


def apply_overrides(dataset: Dataset, config: PreprocessJob) -> Dataset:
    """``dataset`` with the tag, the tag position and the genre ratio of ``config`` where they are set."""
    overrides = {"custom_tag": config.tag, "tag_position": config.tag_position, "genre_ratio": config.genre_ratio}
    update = {key: value for key, value in overrides.items() if value is not None}
    samples = dataset.samples
    if config.tag is not None:
        samples = [sample.model_copy(update={"custom_tag": config.tag}) for sample in samples]
    return Dataset(metadata=dataset.metadata.model_copy(update=update), samples=samples)


def iter_sample_sources(
    dataset: Dataset,
    root: Path,
    config: PreprocessJob,
    checkpoint: Checkpoint,
    dtype_name: str,
    report_failure: ReportFailure,
) -> Iterator[SampleSource]:
    """Yield the source of each sample that can be encoded, in dataset order.

    Args:
        root: folder that relative audio paths, and the names in messages, are relative to.
        dtype_name: dtype of the computation, such as "bfloat16".
        report_failure: called for each sample that is skipped.

    Raises:
        DatasetError: unlabeled samples are included, but there is no tag to describe them.
    """
    texts = _sample_texts(dataset, config)
    common = {
        "format_version": FORMAT_VERSION,
        "text_template_version": TEXT_TEMPLATE_VERSION,
        "encoder_fingerprint": encoder_fingerprint(checkpoint),
        "model_checkpoint": checkpoint.name,
        "tag_position": dataset.metadata.tag_position,
        "normalize": config.normalize,
        "max_duration_s": config.max_duration_s,
        "seed": config.seed,
        "dtype": dtype_name,
    }
    names_by_file: dict[str, str] = {}
    for sample, text in zip(dataset.samples, texts, strict=True):
        audio = root / sample.audio_path
        name = short_name(audio, root)
        try:
            source = _make_source(sample, audio, name, text, {**common, "custom_tag": _tag(dataset, sample)})
            _check_unique_file(names_by_file, source)
        except AceStepError as error:
            report_failure(name, error)
        else:
            yield source


def short_name(path: Path, root: Path) -> str:
    """The path relative to ``root``, or the file name if it is elsewhere. Never absolute."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def up_to_date(folder: Path, source: SampleSource) -> SampleDetails | None:
    """The manifest entry of a sample whose tensor file is intact and current. None if it must be encoded."""
    path = folder / source.file
    if not is_file(path):
        return None
    try:
        data = read_file(path)
        record = decode_record(data, path.name)
    except (TensorError, OSError):
        return None
    is_current = record.metadata.get("content_hash") == source.content_hash
    return sample_details(path.name, record, data) if is_current else None


def _sample_texts(dataset: Dataset, config: PreprocessJob) -> list[str]:
    """The text of each sample. "" if it has none, which excludes the sample."""
    labeled = iter(training_texts(dataset))
    texts = [next(labeled) if sample.labeled else "" for sample in dataset.samples]
    if not config.include_unlabelled:
        return texts
    position = dataset.metadata.tag_position
    texts = [
        text or caption_with_tag(sample.caption if sample.has_caption else "", _tag(dataset, sample), position)
        for text, sample in zip(texts, dataset.samples, strict=True)
    ]
    if "" in texts:
        raise DatasetError(
            f"{texts.count('')} samples have no caption, and there is no tag to describe them",
            hint="Set a tag (--tag), or label the samples.",
        )
    return texts


def _tag(dataset: Dataset, sample: Sample) -> str:
    return (dataset.metadata.custom_tag or sample.custom_tag).strip()


def _make_source(sample: Sample, audio: Path, name: str, text: str, common: dict[str, Any]) -> SampleSource:
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
    hashed = {key: value for key, value in metadata.items() if key not in _NOT_HASHED}
    metadata["content_hash"] = hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()
    return SampleSource(name, audio, f"{safe_name(sample.id)}.pt", text, lyrics, language, metadata)


def _check_unique_file(names_by_file: dict[str, str], source: SampleSource) -> None:
    """Two samples must not write the same file, even on a case-insensitive file system."""
    key = source.file.casefold()
    if key in names_by_file:
        raise DatasetError(
            f"has the same id as {names_by_file[key]}, {source.file!r}", hint="Give each sample a unique id."
        )
    names_by_file[key] = source.name


def _hash_audio(audio: Path) -> str:
    try:
        return sha256_of(audio)
    except OSError as error:
        raise AudioError(
            f"cannot be read: {error.strerror}", hint="Check that the file exists and is readable."
        ) from None
