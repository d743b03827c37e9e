from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AceStepPipeline, FlowMatchEulerDiscreteScheduler
from loguru import logger

from acestep.models.condition import context_latents, encode_condition
from acestep.models.load import (
    load_condition_encoder,
    load_dit,
    load_silence_latent,
    load_text_encoder,
    load_vae,
)
from acestep.models.text import TextEncoder, format_lyrics, format_prompt

CAPTION, LYRICS = "warm piano, slow", "[Verse]\nHello\nworld ä"
METAS: dict[str, Any] = {"bpm": 92, "timesignature": "4", "keyscale": "C Major"}


@pytest.fixture(scope="module")
def encoder(tiny_checkpoint: Path) -> TextEncoder:
    return load_text_encoder(tiny_checkpoint)


@pytest.fixture
def logged_warnings() -> Iterator[list[str]]:
    messages: list[str] = []
    sink = logger.add(lambda message: messages.append(message.record["message"]), level="WARNING")
    yield messages
    logger.remove(sink)


def test_the_prompt_matches_the_template_of_the_model() -> None:
    assert format_prompt(CAPTION, **METAS, duration_s=183.9) == (
        "# Instruction\nFill the audio semantic mask based on the given conditions:\n\n"
        "# Caption\nwarm piano, slow\n\n"
        "# Metas\n- bpm: 92\n- timesignature: 4\n- keyscale: C Major\n- duration: 183 seconds\n<|endoftext|>\n"
    )


@pytest.mark.parametrize("unknown", [None, "", " ", 0])
def test_unknown_metadata_becomes_not_available(unknown: Any) -> None:
    text = format_prompt("", bpm=unknown, timesignature=unknown, keyscale=unknown, duration_s=30, instruction="Do")
    assert text == (
        "# Instruction\nDo:\n\n# Caption\n\n\n"
        "# Metas\n- bpm: N/A\n- timesignature: N/A\n- keyscale: N/A\n- duration: 30 seconds\n<|endoftext|>\n"
    )


def test_lyrics_are_formatted_with_their_language() -> None:
    assert format_lyrics(LYRICS, "en") == f"# Languages\nen\n\n# Lyric\n{LYRICS}<|endoftext|>"
    assert format_lyrics(LYRICS, " ").startswith("# Languages\nunknown\n")


@pytest.mark.parametrize("lyrics", ["", "  \n", "[Instrumental]", "[instrumental]"])
def test_empty_lyrics_become_instrumental_in_an_unknown_language(lyrics: str) -> None:
    assert format_lyrics(lyrics, "en") == "# Languages\nunknown\n\n# Lyric\n[Instrumental]<|endoftext|>"


def test_prompts_use_all_layers_and_lyrics_only_the_token_embeddings(encoder: TextEncoder) -> None:
    ids = encoder.tokenizer("abc<|endoftext|>", return_tensors="pt").input_ids
    assert ids.shape == (1, 4)
    with torch.no_grad():
        hidden_states, embeddings = encoder.model(ids).last_hidden_state[0], encoder.model.embed_tokens(ids)[0]
    assert torch.equal(encoder.encode_prompt("abc<|endoftext|>"), hidden_states)
    assert torch.equal(encoder.embed_lyrics("abc<|endoftext|>"), embeddings)
    assert not torch.allclose(hidden_states, embeddings)


@pytest.mark.parametrize("text", ["", "plain", "ä ö 音楽 🎵\n\t", "<|endoftext|>"])
def test_the_tiny_tokenizer_round_trips_any_text(text: str, encoder: TextEncoder) -> None:
    ids = encoder.tokenizer(text).input_ids
    assert encoder.tokenizer.decode(ids) == text


def test_long_texts_are_truncated_with_a_warning(encoder: TextEncoder, logged_warnings: list[str]) -> None:
    assert len(encoder.encode_prompt("a" * 256)) == 256
    assert len(encoder.embed_lyrics("a" * 2048)) == 2048
    assert not logged_warnings
    assert len(encoder.encode_prompt("a" * 300)) == 256
    assert len(encoder.embed_lyrics("a" * 2050)) == 2048
    assert logged_warnings == [
        "prompt truncated from 300 to 256 tokens, the maximum of the model",
        "lyrics truncated from 2050 to 2048 tokens, the maximum of the model",
    ]


@pytest.mark.parametrize("name", ["acestep-v15-tiny", "acestep-v15-tiny-xl-base"])
def test_training_conditions_equal_those_of_the_inference_pipeline(name: str, tiny_root: Path) -> None:
    folder = tiny_root / name
    text, encoder, silence = load_text_encoder(folder), load_condition_encoder(folder), load_silence_latent(folder)
    dit, calls = load_dit(folder), []
    dit.register_forward_pre_hook(lambda _module, _args, kwargs: calls.append(kwargs), with_kwargs=True)
    pipeline = AceStepPipeline(
        vae=load_vae(folder),
        text_encoder=text.model,
        tokenizer=text.tokenizer,
        transformer=dit,
        condition_encoder=encoder,
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0),
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline(
        prompt=CAPTION,
        lyrics=LYRICS,
        vocal_language="en",
        audio_duration=4.0,
        num_inference_steps=1,
        guidance_scale=1.0,
        output_type="latent",
        **METAS,
    )
    prompt = text.encode_prompt(format_prompt(CAPTION, **METAS, duration_s=4.0))
    condition = encode_condition(encoder, prompt, text.embed_lyrics(format_lyrics(LYRICS, "en")), silence)
    assert torch.equal(condition, calls[0]["encoder_hidden_states"][0])
    assert torch.equal(context_latents(silence, 100), calls[0]["context_latents"][0])


def test_context_latents_are_repeated_silence_and_a_mask_of_ones() -> None:
    silence = torch.arange(6.0).reshape(1, 3, 2)
    context = context_latents(silence, 5)
    assert context[:, 0].tolist() == [0, 2, 4, 0, 2]
    assert context[:, 2:].tolist() == [[1, 1]] * 5


def test_a_condition_has_lyric_tokens_one_timbre_token_and_text_tokens(tiny_checkpoint: Path) -> None:
    encoder = load_condition_encoder(tiny_checkpoint)
    tokens = encode_condition(encoder, torch.ones(5, 32), torch.ones(7, 32), torch.zeros(1, 100, 64))
    assert tokens.shape == (5 + 1 + 7, 160)
