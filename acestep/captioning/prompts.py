"""Prompts. Output formats use placeholders instead of examples, because models repeat examples."""

from __future__ import annotations

# The system prompt that the Qwen2.5-Omni model card prescribes.
SYSTEM = (
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, "
    "capable of perceiving auditory and visual inputs, as well as generating text and speech."
)

# The prompts that the captioner and the transcriber were trained with (from their model cards).
DESCRIBE = "*Task* Describe this audio in detail"
TRANSCRIBE = "*Task* Transcribe this audio in detail"

_ANSWER_FORMAT = """

After the description add three lines in exactly this form, with what you hear in place of the brackets:
key: <note> <major or minor>
time_signature: <beats in a bar>
genre: <genre>"""

DESCRIBE_WITH_METADATA = DESCRIBE + _ANSWER_FORMAT


def merge(descriptions: list[str]) -> str:
    """The prompt that merges the descriptions of a song's windows, in order."""
    parts = "\n\n".join(f"Part {number}: {text}" for number, text in enumerate(descriptions, start=1))
    return (
        "These are descriptions of the parts of one song, in order. Write one description of the whole song. "
        f"Use only what they say, and describe how the song develops.\n\n{parts}{_ANSWER_FORMAT}"
    )


GEMINI = """Listen to the whole song and answer in JSON.
caption: what it sounds like in two to four sentences: style, instruments, voice, mood, and how it develops.
genre: one to three genres, separated by commas.
bpm: beats per minute, a whole number.
keyscale: a note and Major or Minor.
timesignature: the number of beats in a bar.
language: the ISO 639-1 code of the words that are sung, or unknown when nobody sings."""

GEMINI_LYRICS = """
lyrics: every sung line, one a line, in the language that is sung, with section tags such as [Verse], [Chorus] and
[Bridge] on lines of their own. Write only what you hear. [Instrumental] when nobody sings."""
