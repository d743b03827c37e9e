"""A song with its labels, and a list of them: the content of the dataset file (SPEC 1.1)."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from acestep.core.paths import safe_name
from acestep.dataset.labels import (
    INSTRUMENTAL,
    UNKNOWN_LANGUAGE,
    beats,
    flag,
    is_failure,
    language,
    prompt_choice,
    tempo,
    text,
    whole_number,
)

TagPosition = Literal["prepend", "append", "replace"]

Text = Annotated[str, BeforeValidator(text)]
Flag = Annotated[bool, BeforeValidator(flag)]
Id = Annotated[str, BeforeValidator(lambda value: safe_name(text(value)) if value else "")]
Tempo = Annotated[int | None, BeforeValidator(tempo)]
Beats = Annotated[str, BeforeValidator(beats)]
Seconds = Annotated[int, BeforeValidator(lambda value: whole_number(value) or 0)]
Language = Annotated[str, BeforeValidator(language)]
PromptChoice = Annotated[Literal["caption", "genre"] | None, BeforeValidator(prompt_choice)]


class _Record(BaseModel):
    """Keys that other programs added are kept."""

    model_config = ConfigDict(extra="allow", validate_assignment=True, protected_namespaces=())


class Sample(_Record):
    """One song. ``caption`` and ``genre`` are without the tag; ``sources`` tells where each label came from."""

    id: Id = ""
    audio_path: Text = ""
    filename: Text = ""
    caption: Text = ""
    genre: Text = ""
    lyrics: Text = INSTRUMENTAL
    raw_lyrics: Text = ""
    formatted_lyrics: Text = ""
    bpm: Tempo = None
    keyscale: Text = ""
    timesignature: Beats = ""
    duration: Seconds = 0
    language: Language = UNKNOWN_LANGUAGE
    is_instrumental: Flag = True
    custom_tag: Text = ""
    labeled: Flag = False
    prompt_override: PromptChoice = None
    sources: dict[str, str] = Field(default_factory=dict)

    @property
    def has_caption(self) -> bool:
        """Whether the caption describes the song: not empty, not the error message of a captioner."""
        return bool(self.caption.strip()) and not is_failure(self.caption)

    @property
    def name(self) -> str:
        """How to call the song in messages."""
        return self.filename or PurePath(self.audio_path.replace("\\", "/")).name


class DatasetMetadata(_Record):
    """What holds for all songs. ``genre_ratio`` percent of them are trained on their genre instead of the caption."""

    name: Text = "untitled_dataset"
    custom_tag: Text = ""
    tag_position: TagPosition = "prepend"
    created_at: Text = ""
    num_samples: int = 0
    all_instrumental: Flag = True
    genre_ratio: int = Field(default=0, ge=0, le=100)


class Dataset(BaseModel):
    """Songs, in order."""

    metadata: DatasetMetadata = Field(default_factory=DatasetMetadata)
    samples: list[Sample] = Field(default_factory=list)

    @property
    def labelled(self) -> list[Sample]:
        """The songs that can be trained on as they are."""
        return [sample for sample in self.samples if sample.labeled]
