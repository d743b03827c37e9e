"""Samples, dataset metadata and datasets: the content of the dataset file."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from acestep.core.paths import safe_name
from acestep.dataset.labels import (
    INSTRUMENTAL,
    UNKNOWN_LANGUAGE,
    is_failure,
    parse_bpm,
    parse_flag,
    parse_language,
    parse_lyrics,
    parse_prompt_choice,
    parse_text,
    parse_whole_number,
)
from acestep.dataset.music_values import parse_key, parse_time_signature

TagPosition = Literal["prepend", "append", "replace"]

Text = Annotated[str, BeforeValidator(parse_text)]
Lyrics = Annotated[str, BeforeValidator(parse_lyrics)]
Key = Annotated[str, BeforeValidator(parse_key)]
Flag = Annotated[bool, BeforeValidator(parse_flag)]
Id = Annotated[str, BeforeValidator(lambda value: safe_name(parse_text(value)) if value else "")]
Tempo = Annotated[int | None, BeforeValidator(parse_bpm)]
Beats = Annotated[str, BeforeValidator(parse_time_signature)]
Seconds = Annotated[int, BeforeValidator(lambda value: parse_whole_number(value) or 0)]
Language = Annotated[str, BeforeValidator(parse_language)]
PromptChoice = Annotated[Literal["caption", "genre"] | None, BeforeValidator(parse_prompt_choice)]


class _Record(BaseModel):
    """Keeps unknown keys, which other programs may have added."""

    model_config = ConfigDict(extra="allow", validate_assignment=True, protected_namespaces=())


class Sample(_Record):
    """An audio file and its labels.

    ``caption`` and ``genre`` do not contain the tag. ``duration`` is in whole seconds. ``sources`` gives the file or
    program that each label comes from. ``line_times_s`` is the start of each line of the lyrics, empty if unknown.
    """

    id: Id = ""
    audio_path: Text = ""
    filename: Text = ""
    caption: Text = ""
    genre: Text = ""
    lyrics: Lyrics = INSTRUMENTAL
    raw_lyrics: Text = ""
    formatted_lyrics: Text = ""
    bpm: Tempo = None
    keyscale: Key = ""
    timesignature: Beats = ""
    duration: Seconds = 0
    language: Language = UNKNOWN_LANGUAGE
    is_instrumental: Flag = True
    custom_tag: Text = ""
    labeled: Flag = False
    prompt_override: PromptChoice = None
    sources: dict[str, str] = Field(default_factory=dict)
    line_times_s: list[float] = Field(default_factory=list, exclude_if=lambda times_s: not times_s)

    @property
    def has_caption(self) -> bool:
        """Whether there is a caption that is not an error message of a captioner."""
        return bool(self.caption.strip()) and not is_failure(self.caption)

    @property
    def name(self) -> str:
        """The name to use in messages."""
        return self.filename or PurePath(self.audio_path.replace("\\", "/")).name


class DatasetMetadata(_Record):
    """Settings of all samples. ``genre_ratio`` is the percentage of samples that use the genre as text."""

    name: Text = "untitled_dataset"
    custom_tag: Text = ""
    tag_position: TagPosition = "prepend"
    created_at: Text = ""
    num_samples: int = 0
    all_instrumental: Flag = True
    genre_ratio: int = Field(default=0, ge=0, le=100)


class Dataset(BaseModel):
    """Samples in a fixed order, with their metadata."""

    metadata: DatasetMetadata = Field(default_factory=DatasetMetadata)
    samples: list[Sample] = Field(default_factory=list)

    @property
    def labeled_samples(self) -> list[Sample]:
        """The samples that have a caption."""
        return [sample for sample in self.samples if sample.labeled]
