"""The text of each sample: its caption or genre, with the activation tag."""

from __future__ import annotations

import random

from acestep.dataset.sample import Dataset, TagPosition

_SHUFFLE_SEED = 42  # the seed of ace-lora-trainer, so both select the same samples


def caption_with_tag(text: str, tag: str, position: TagPosition) -> str:
    """``text`` with the tag before it, after it or in its place. If one of the two is empty, the other."""
    text, tag = text.strip(), tag.strip()
    if not tag or not text:
        return tag or text
    return {"prepend": f"{tag}, {text}", "append": f"{text}, {tag}", "replace": tag}[position]


def training_texts(dataset: Dataset) -> list[str]:
    """The text of each labeled sample, in dataset order.

    A fixed pseudorandom selection of ``genre_ratio`` percent of the samples uses the genre, the others the caption.
    ``prompt_override`` of a sample takes precedence. If the selected field is empty, the other one is used.
    """
    metadata, samples = dataset.metadata, dataset.labeled_samples
    order = list(range(len(samples)))
    random.Random(_SHUFFLE_SEED).shuffle(order)
    by_genre = set(order[: len(samples) * metadata.genre_ratio // 100])
    texts = []
    for index, sample in enumerate(samples):
        choice = sample.prompt_override or ("genre" if index in by_genre else "caption")
        selected, other = (sample.genre, sample.caption) if choice == "genre" else (sample.caption, sample.genre)
        tag = metadata.custom_tag or sample.custom_tag
        texts.append(caption_with_tag(selected if selected.strip() else other, tag, metadata.tag_position))
    return texts
