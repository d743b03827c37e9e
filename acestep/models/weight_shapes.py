"""Names and shapes of all weights of a checkpoint, derived from its config.json (keys of the original layout)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Shapes = Iterator[tuple[str, tuple[int, ...]]]

# Defaults of AceStepConfig (configuration_acestep_v15.py in the ACE-Step 1.5 model repositories).
DEFAULTS: dict[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "sliding_window": 128,
    "layer_types": None,
    "in_channels": 192,
    "audio_acoustic_hidden_dim": 64,
    "patch_size": 2,
    "text_hidden_dim": 1024,
    "timbre_hidden_dim": 64,
    "timbre_fix_frame": 750,
    "num_lyric_encoder_hidden_layers": 8,
    "num_timbre_encoder_hidden_layers": 4,
    "num_attention_pooler_hidden_layers": 2,
    "pool_window_size": 5,
    "fsq_dim": 2048,
    "fsq_input_levels": [8, 8, 8, 5, 5, 5],
    "fsq_input_num_quantizers": 1,
    "rope_theta": 1_000_000.0,
    "rms_norm_eps": 1e-6,
    "timestep_mu": -0.4,
    "timestep_sigma": 1.0,
    "encoder_hidden_size": None,
}
_ENCODER_SIZES = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
_TIME_CHANNELS = 256  # width of the sinusoidal timestep embedding


def is_xl(config: Mapping[str, Any]) -> bool:
    """Return whether a config is of the XL family, whose encoders have another hidden size than the decoder."""
    return config.get("encoder_hidden_size") not in (None, config["hidden_size"])


def encoder_sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Return the layer sizes of the encoders and tokenizers; in the 2B family they are those of the decoder."""
    prefix = "encoder_" if is_xl(config) else ""
    sizes = {key: config.get(prefix + key) or config[key] for key in _ENCODER_SIZES}
    return {**sizes, "head_dim": config["head_dim"]}


def expected_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Map the original key of every weight of a checkpoint with this config to its shape."""
    encoder = encoder_sizes(config)
    return dict(
        [
            *_prefixed("decoder.", _decoder(config, encoder["hidden_size"])),
            *_prefixed("encoder.", _condition_encoder(config, encoder)),
            *_prefixed("tokenizer.", _tokenizer(config, encoder)),
            *_prefixed("detokenizer.", _detokenizer(config, encoder)),
            ("null_condition_emb", (1, 1, encoder["hidden_size"])),
        ]
    )


def _prefixed(prefix: str, shapes: Shapes) -> Shapes:
    for name, shape in shapes:
        yield prefix + name, shape


def _linear(name: str, out_features: int, in_features: int) -> Shapes:
    yield f"{name}.weight", (out_features, in_features)
    yield f"{name}.bias", (out_features,)


def _attention(sizes: Mapping[str, int]) -> Shapes:
    width, head = sizes["hidden_size"], sizes["head_dim"]
    queries, keys = sizes["num_attention_heads"] * head, sizes["num_key_value_heads"] * head
    yield "q_proj.weight", (queries, width)
    yield "k_proj.weight", (keys, width)
    yield "v_proj.weight", (keys, width)
    yield "o_proj.weight", (width, queries)
    yield "q_norm.weight", (head,)
    yield "k_norm.weight", (head,)


def _mlp(sizes: Mapping[str, int]) -> Shapes:
    width, intermediate = sizes["hidden_size"], sizes["intermediate_size"]
    yield "gate_proj.weight", (intermediate, width)
    yield "up_proj.weight", (intermediate, width)
    yield "down_proj.weight", (width, intermediate)


def _decoder(config: Mapping[str, Any], condition_width: int) -> Shapes:
    width, patch, channels = config["hidden_size"], config["patch_size"], config["audio_acoustic_hidden_dim"]
    for index in range(config["num_hidden_layers"]):
        layer = f"layers.{index}."
        yield f"{layer}scale_shift_table", (1, 6, width)
        for norm in ("self_attn_norm", "cross_attn_norm", "mlp_norm"):
            yield f"{layer}{norm}.weight", (width,)
        yield from _prefixed(f"{layer}self_attn.", _attention(config))
        yield from _prefixed(f"{layer}cross_attn.", _attention(config))
        yield from _prefixed(f"{layer}mlp.", _mlp(config))
    yield "proj_in.1.weight", (width, config["in_channels"], patch)
    yield "proj_in.1.bias", (width,)
    for name in ("time_embed", "time_embed_r"):
        yield from _linear(f"{name}.linear_1", width, _TIME_CHANNELS)
        yield from _linear(f"{name}.linear_2", width, width)
        yield from _linear(f"{name}.time_proj", 6 * width, width)
    yield from _linear("condition_embedder", width, condition_width)
    yield "norm_out.weight", (width,)
    yield "proj_out.1.weight", (width, channels, patch)
    yield "proj_out.1.bias", (channels,)
    yield "scale_shift_table", (1, 2, width)


def _transformer(sizes: Mapping[str, int], num_layers: int, in_features: int) -> Shapes:
    """Input embedding, transformer layers and final norm: the lyric and timbre encoders and the attention poolers."""
    width = sizes["hidden_size"]
    yield from _linear("embed_tokens", width, in_features)
    yield "norm.weight", (width,)
    for index in range(num_layers):
        layer = f"layers.{index}."
        yield f"{layer}input_layernorm.weight", (width,)
        yield f"{layer}post_attention_layernorm.weight", (width,)
        yield from _prefixed(f"{layer}self_attn.", _attention(sizes))
        yield from _prefixed(f"{layer}mlp.", _mlp(sizes))


def _condition_encoder(config: Mapping[str, Any], sizes: Mapping[str, int]) -> Shapes:
    text, width = config["text_hidden_dim"], sizes["hidden_size"]
    yield "text_projector.weight", (width, text)
    yield from _prefixed("lyric_encoder.", _transformer(sizes, config["num_lyric_encoder_hidden_layers"], text))
    timbre = _transformer(sizes, config["num_timbre_encoder_hidden_layers"], config["timbre_hidden_dim"])
    yield from _prefixed("timbre_encoder.", timbre)
    yield "timbre_encoder.special_token", (1, 1, width)


def _tokenizer(config: Mapping[str, Any], sizes: Mapping[str, int]) -> Shapes:
    width, levels = sizes["hidden_size"], len(config["fsq_input_levels"])
    yield from _linear("audio_acoustic_proj", width, config["audio_acoustic_hidden_dim"])
    pooler = _transformer(sizes, config["num_attention_pooler_hidden_layers"], width)
    yield from _prefixed("attention_pooler.", pooler)
    yield "attention_pooler.special_token", (1, 1, width)
    yield from _linear("quantizer.project_in", levels, config["fsq_dim"])
    yield from _linear("quantizer.project_out", config["fsq_dim"], levels)


def _detokenizer(config: Mapping[str, Any], sizes: Mapping[str, int]) -> Shapes:
    width = sizes["hidden_size"]
    yield from _transformer(sizes, config["num_attention_pooler_hidden_layers"], width)
    yield "special_tokens", (1, config["pool_window_size"], width)
    yield from _linear("proj_out", config["audio_acoustic_hidden_dim"], width)
