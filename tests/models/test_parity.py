"""The loaded modules reproduce the outputs of the original implementation, recorded in ``tests/fixtures/parity``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from acestep.models.load import (
    load_audio_detokenizer,
    load_audio_tokenizer,
    load_condition_encoder,
    load_dit,
    load_null_condition,
    load_silence_latent,
)

ORIGINAL = Path(__file__).parents[1] / "fixtures" / "parity" / "acestep-v15-turbo"


@pytest.fixture(scope="module")
def recorded() -> dict[str, Tensor]:
    return load_file(ORIGINAL / "vectors.safetensors")


def velocity(recorded: dict[str, Tensor], condition: Tensor) -> Tensor:
    with torch.no_grad():
        prediction: Tensor = load_dit(ORIGINAL)(
            hidden_states=recorded["xt"],
            timestep=recorded["t"],
            timestep_r=recorded["t"],
            encoder_hidden_states=condition,
            context_latents=recorded["context"],
        ).sample
    return prediction


def test_condition_encoder_matches_the_original(recorded: dict[str, Tensor]) -> None:
    with torch.no_grad():
        tokens, mask = load_condition_encoder(ORIGINAL)(
            text_hidden_states=recorded["text_hidden"],
            text_attention_mask=recorded["text_mask"].long(),
            lyric_hidden_states=recorded["lyric_hidden"],
            lyric_attention_mask=recorded["lyric_mask"].long(),
            refer_audio_acoustic_hidden_states_packed=recorded["refer"],
            refer_audio_order_mask=recorded["refer_order"],
        )
    torch.testing.assert_close(tokens, recorded["enc_out"], atol=1e-5, rtol=0)
    assert torch.equal(mask.float(), recorded["enc_mask"])


def test_decoder_and_loss_match_the_original(recorded: dict[str, Tensor]) -> None:
    prediction = velocity(recorded, recorded["enc_out"])
    torch.testing.assert_close(prediction, recorded["velocity"], atol=1e-5, rtol=0)
    loss = (prediction - (recorded["x1"] - recorded["x0"])).pow(2).mean(dim=(1, 2))
    torch.testing.assert_close(loss, recorded["loss_per_sample"], atol=1e-5, rtol=0)


def test_unconditional_decoder_matches_the_original(recorded: dict[str, Tensor]) -> None:
    prediction = velocity(recorded, load_null_condition(ORIGINAL).expand_as(recorded["enc_out"]))
    torch.testing.assert_close(prediction, recorded["velocity_null"], atol=1e-5, rtol=0)


def test_audio_tokenizer_and_detokenizer_match_the_original(recorded: dict[str, Tensor]) -> None:
    with torch.no_grad():
        quantized, codes = load_audio_tokenizer(ORIGINAL).tokenize(recorded["x0"][:1], load_silence_latent(ORIGINAL))
        hints = load_audio_detokenizer(ORIGINAL)(quantized)
    assert torch.equal(codes.squeeze(-1), recorded["codes"].long())
    torch.testing.assert_close(hints, recorded["hints"], atol=1e-5, rtol=0)
