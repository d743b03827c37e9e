"""Load the thinker of a Qwen2.5-Omni folder: its text model and audio tower, and no other weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from loguru import logger
from transformers import BitsAndBytesConfig, Qwen2_5OmniThinkerForConditionalGeneration
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniThinkerConfig
from transformers.utils.logging import disable_progress_bar

from acestep.captioning.omni_buffers import choose_attention, limit_memory
from acestep.captioning.omni_memory import Quantization
from acestep.models.pretrained import read_model_config


class AudioThinker(Qwen2_5OmniThinkerForConditionalGeneration):  # type: ignore[no-untyped-call]
    """The thinker without its vision tower, whose weights in a checkpoint are not read."""

    _keys_to_ignore_on_load_unexpected = [r"visual\."]

    def __init__(self, config: Qwen2_5OmniThinkerConfig) -> None:
        super().__init__(config)  # on the meta device, so that the tower takes no memory
        self.model.visual = None


def thinker_config(folder: Path) -> Qwen2_5OmniThinkerConfig:
    """The config of the thinker in a folder of the complete model, or of the thinker only.

    Raises:
        CheckpointError: config.json is missing or malformed.
        ValueError: it describes another model.
    """
    return Qwen2_5OmniThinkerConfig(**read_thinker_settings(folder))


def read_thinker_settings(folder: Path) -> dict[str, Any]:
    """The ``thinker_config`` of a folder as it is in config.json. Errors as ``thinker_config``."""
    config = read_model_config(folder)
    inner = config if config.get("model_type") == "qwen2_5_omni_thinker" else config.get("thinker_config")
    if not isinstance(inner, dict):
        raise ValueError(f"config.json describes a {config.get('model_type')}, not a Qwen2.5-Omni")
    return inner


def load_thinker(
    folder: Path, config: Qwen2_5OmniThinkerConfig, device: str, dtype: torch.dtype, quantization: Quantization
) -> Any:
    """The frozen thinker in evaluation mode.

    Raises:
        ValueError: weights are missing, with the name of one.
        OSError: files cannot be read.
    """
    settings: dict[str, Any] = {
        "config": config,
        "dtype": dtype,
        "device_map": {"": device},
        "attn_implementation": choose_attention(device, dtype),
    }
    if quantization != "none":
        settings["quantization_config"] = _quantized(quantization, dtype)
    disable_progress_bar()  # type: ignore[no-untyped-call]  # it would interfere with this program's progress
    # Transformers finds the names of the published files by the name of the class.
    base = Qwen2_5OmniThinkerForConditionalGeneration.__name__
    published = get_checkpoint_conversion_mapping(base)  # type: ignore[no-untyped-call]
    register_checkpoint_conversion_mapping(AudioThinker.__name__, published, overwrite=True)
    kind: Any = AudioThinker
    model, info = kind.from_pretrained(
        folder,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
        **settings,
    )
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{len(missing)} weights are missing, such as {missing[0]}")
    model.eval().requires_grad_(False)
    limit_memory(model, device)
    logger.info("Loaded {} on {} as {}, {} weights", folder.name, device, dtype, quantization)
    return model


def _quantized(quantization: Quantization, dtype: torch.dtype) -> Any:
    settings: dict[str, Any] = {"llm_int8_skip_modules": ["lm_head", "model.audio_tower"]}  # names from the top
    if quantization == "8bit":
        settings["load_in_8bit"] = True
    else:
        settings |= {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_compute_dtype": dtype,
            "bnb_4bit_use_double_quant": True,
        }
    return BitsAndBytesConfig(**settings)  # type: ignore[no-untyped-call]
