"""Text models of the tiny checkpoint: a byte-level tokenizer, a small text encoder and a small 5 Hz LM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from acestep.core.files import write_bytes, write_json
from acestep.models.tiny_weights import Weights, random_normal

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
NUM_CODES = 200  # product of the tiny FSQ levels, so the tiny LM has a token for each audio code
LM_TOKENS = ("<think>", "</think>", *(f"<|audio_code_{code}|>" for code in range(NUM_CODES)))
_CHAT_TEMPLATE = (  # ChatML, as in Qwen models
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_COMMON: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "max_position_embeddings": 32768,
    "head_dim": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 2,
    "dtype": "float32",
    "tie_word_embeddings": True,
    "bos_token_id": 256,
    "eos_token_id": 258,
}


def write_text_encoder(folder: Path, width: int) -> None:
    """Write a Qwen3 model of hidden size ``width`` and a tokenizer in the format of ``Qwen3-Embedding-0.6B``."""
    vocab_size = write_tokenizer(folder)
    config = {"architectures": ["Qwen3Model"], **_COMMON, **_sizes(width, vocab_size)}
    write_json(folder / "config.json", config)
    write_bytes(folder / "model.safetensors", save(dict(_qwen3(config, "text encoder", "")), {"format": "pt"}))


def write_language_model(folder: Path, width: int) -> None:
    """Write a Qwen3 causal LM with thinking and audio code tokens in the format of ``acestep-5Hz-lm-*`` models."""
    vocab_size = write_tokenizer(folder, LM_TOKENS, chat_template=_CHAT_TEMPLATE)
    config = {"architectures": ["Qwen3ForCausalLM"], **_COMMON, **_sizes(width, vocab_size)}
    write_json(folder / "config.json", config)
    write_bytes(folder / "model.safetensors", save(dict(_qwen3(config, "5Hz LM", "model.")), {"format": "pt"}))


def _sizes(width: int, vocab_size: int) -> dict[str, int]:
    return {"hidden_size": width, "intermediate_size": 2 * width, "vocab_size": vocab_size}


def _qwen3(config: dict[str, Any], seed: str, prefix: str) -> Weights:
    """Yield random weights of a Qwen3 model under the state_dict keys of transformers."""
    width, intermediate = config["hidden_size"], config["intermediate_size"]
    queries, keys = (config[f"num_{kind}_heads"] * config["head_dim"] for kind in ("attention", "key_value"))
    yield f"{prefix}embed_tokens.weight", random_normal(f"{seed} tokens", (config["vocab_size"], width))
    yield f"{prefix}norm.weight", np.ones(width, np.float32)
    for index in range(config["num_hidden_layers"]):
        layer = f"{prefix}layers.{index}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{layer}{norm}.weight", np.ones(width, np.float32)
        for norm in ("q_norm", "k_norm"):
            yield f"{layer}self_attn.{norm}.weight", np.ones(config["head_dim"], np.float32)
        shapes = {
            "self_attn.q_proj": (queries, width),
            "self_attn.k_proj": (keys, width),
            "self_attn.v_proj": (keys, width),
            "self_attn.o_proj": (width, queries),
            "mlp.gate_proj": (intermediate, width),
            "mlp.up_proj": (intermediate, width),
            "mlp.down_proj": (width, intermediate),
        }
        for name, shape in shapes.items():
            yield f"{layer}{name}.weight", random_normal(f"{seed} {index} {name}", shape, shape[1] ** -0.5)


def write_tokenizer(folder: Path, extra_tokens: Sequence[str] = (), *, chat_template: str | None = None) -> int:
    """Write a byte-level tokenizer for ``AutoTokenizer`` and return the size of its vocabulary."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special_tokens = [*SPECIAL_TOKENS, *extra_tokens]
    vocab = {token: index for index, token in enumerate([*alphabet, *special_tokens])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in extra_tokens])
    write_bytes(folder / "tokenizer.json", tokenizer.to_str(pretty=True).encode("utf-8"))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 32768,
        "padding_side": "right",
    }
    if chat_template:
        config["chat_template"] = chat_template
    write_json(folder / "tokenizer_config.json", config)
    return len(vocab)
