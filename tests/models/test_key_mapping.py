from __future__ import annotations

import pytest
import torch
from diffusers.models.transformers.ace_step_transformer import AceStepTransformer1DModel
from diffusers.pipelines.ace_step.modeling_ace_step import (
    AceStepAudioTokenDetokenizer,
    AceStepAudioTokenizer,
    AceStepConditionEncoder,
)

from acestep.models.key_mapping import SUBFOLDERS, diffusers_to_original, original_key, original_to_diffusers
from acestep.models.weight_shapes import DEFAULTS, encoder_sizes, expected_shapes

XL = {
    **DEFAULTS,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "encoder_hidden_size": 2048,
    "encoder_intermediate_size": 6144,
    "encoder_num_attention_heads": 16,
    "encoder_num_key_value_heads": 8,
}


@pytest.mark.parametrize(
    ("original", "diffusers"),
    [
        ("layers.3.self_attn.q_proj", "layers.3.self_attn.to_q"),
        ("layers.3.cross_attn.o_proj.lora_A.weight", "layers.3.cross_attn.to_out.0.lora_A.weight"),
        ("layers.0.self_attn.k_norm.weight", "layers.0.self_attn.norm_k.weight"),
        ("layers.0.mlp.gate_proj.weight", "layers.0.mlp.gate_proj.weight"),
        ("proj_in.1.weight", "proj_in_conv.weight"),
        ("proj_out.1.bias", "proj_out_conv.bias"),
        ("proj_out.weight", "proj_out.weight"),
        ("layers.1.cross_attn_norm.weight", "layers.1.cross_attn_norm.weight"),
    ],
)
def test_keys_map_in_both_directions(original: str, diffusers: str) -> None:
    assert original_to_diffusers(original) == diffusers
    assert diffusers_to_original(diffusers) == original


@pytest.mark.parametrize("config", [DEFAULTS, XL], ids=["2b", "xl"])
def test_expected_shapes_equal_those_of_the_full_size_modules(config: dict[str, object]) -> None:
    encoder = encoder_sizes(config)
    decoder_keys = (
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_hidden_layers",
        "encoder_hidden_size",
    )
    with torch.device("meta"):
        modules = {
            "transformer": AceStepTransformer1DModel(**{key: config[key] for key in decoder_keys}),
            "condition_encoder": AceStepConditionEncoder(**encoder),
            "audio_tokenizer": AceStepAudioTokenizer(**encoder),
            "audio_token_detokenizer": AceStepAudioTokenDetokenizer(**encoder),
        }
    shapes = {
        name: tuple(weight.shape)
        for subfolder, module in modules.items()
        for key, weight in module.state_dict().items()
        if (name := original_key(subfolder, key))
    }
    assert shapes == expected_shapes(config)
    assert set(modules) == set(SUBFOLDERS.values())
