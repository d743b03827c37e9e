"""The text that each song is trained on: its caption or its genre, with the tag."""

from __future__ import annotations

import random

from acestep.dataset.sample import Dataset, TagPosition

_SHUFFLE_SEED = 42  # the existing trainer's: the same dataset gets the same texts


def caption_with_tag(text: str, tag: str, position: TagPosition) -> str:
    """``text`` with the tag before it, behind it or instead of it; whichever is empty gives way to the other."""
    text, tag = text.strip(), tag.strip()
    if not tag or not text:
        return tag or text
    return {"prepend": f"{tag}, {text}", "append": f"{text}, {tag}", "replace": tag}[position]


def training_texts(dataset: Dataset) -> list[str]:
    """One text for each labelled song, in their order.

    ``genre_ratio`` percent of the songs, always the same ones, take their genre; a song's ``prompt_override`` comes
    before that. A song without the wanted text takes the other one.
    """
    metadata, songs = dataset.metadata, dataset.labelled
    order = list(range(len(songs)))
    random.Random(_SHUFFLE_SEED).shuffle(order)
    by_genre = set(order[: len(songs) * metadata.genre_ratio // 100])
    texts = []
    for index, song in enumerate(songs):
        choice = song.prompt_override or ("genre" if index in by_genre else "caption")
        wanted, other = (song.genre, song.caption) if choice == "genre" else (song.caption, song.genre)
        tag = metadata.custom_tag or song.custom_tag
        texts.append(caption_with_tag(wanted if wanted.strip() else other, tag, metadata.tag_position))
    return texts
