"""The parts of a checkpoint as frozen modules, straight from its safetensors files.

A module is built without memory (on the meta device) and given the stored weights under diffusers' names; no
code of a checkpoint is executed, no second copy is made on disk, and only the asked part is read.
"""

from __future__ import annotations

import itertools
import pickle
import warnings
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.models.autoencoders.autoencoder_oobleck import AutoencoderOobleck
from diffusers.pipelines.ace_step.modeling_ace_step import (
    AceStepAudioTokenDetokenizer,
    AceStepAudioTokenizer,
    AceStepConditionEncoder,
    AceStepTimbreEncoder,
)
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.utils import remove_weight_norm
from transformers import AutoModel, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from acestep.core.errors import CheckpointError
from acestep.core.files import read_json
from acestep.models.checkpoint import SILENCE_FILE, Checkpoint, find_checkpoint, tensor_infos
from acestep.models.condition import TimbreEncoderXL
from acestep.models.dit import AceStepDiT
from acestep.models.key_mapping import NULL_CONDITION, original_to_diffusers
from acestep.models.safetensors_header import TensorInfo, check_shapes, read_tensor_infos
from acestep.models.text import TextEncoder
from acestep.models.weight_shapes import encoder_sizes

M = TypeVar("M", bound=nn.Module)
Source = str | Path | Checkpoint
Device = torch.device | str

_LAYER_KEYS = ("rope_theta", "rms_norm_eps", "sliding_window")
_DIT_KEYS = (
    *_LAYER_KEYS,
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "in_channels",
    "audio_acoustic_hidden_dim",
    "patch_size",
    "layer_types",
    "encoder_hidden_size",
)


def load_dit(path: Source, *, device: Device = "cpu", dtype: torch.dtype = torch.float32) -> AceStepDiT:
    """The decoder; nothing but ``decoder.`` is read. Raises CheckpointError."""
    checkpoint = _opened(path)
    config = {key: checkpoint.config[key] for key in _DIT_KEYS}
    # The pipeline reads from the decoder whether to guide.
    dit: AceStepDiT = _on_meta(AceStepDiT, **config, is_turbo=checkpoint.is_turbo, model_version=checkpoint.variant)
    return _part(checkpoint, "decoder.", dit, device, dtype)


def load_condition_encoder(
    path: Source, *, device: Device = "cpu", dtype: torch.dtype = torch.float32
) -> AceStepConditionEncoder:
    """The encoder of text, lyrics and reference, with the null condition and the silence latent that
    ``AceStepPipeline`` looks for in it. Raises CheckpointError."""
    checkpoint = _opened(path)
    keys = ("text_hidden_dim", "timbre_hidden_dim", "num_lyric_encoder_hidden_layers")
    config = _inner_config(checkpoint, *keys, "num_timbre_encoder_hidden_layers")
    types = checkpoint.config["layer_types"]
    config["layer_types"] = types and types[: config["num_lyric_encoder_hidden_layers"]]
    encoder: AceStepConditionEncoder = _on_meta(AceStepConditionEncoder, **config)
    if checkpoint.family == "xl":
        encoder.timbre_encoder = _xl_timbre_encoder(encoder.timbre_encoder)
    encoder.silence_latent = load_silence_latent(checkpoint)  # of any length; the module declares 15,000 frames
    extra = {NULL_CONDITION: load_null_condition(checkpoint), "silence_latent": encoder.silence_latent}
    return _part(checkpoint, "encoder.", encoder, device, dtype, extra)


def load_audio_tokenizer(
    path: Source, *, device: Device = "cpu", dtype: torch.dtype = torch.float32
) -> AceStepAudioTokenizer:
    """Latents at 25 Hz to audio codes at 5 Hz. Raises CheckpointError."""
    checkpoint = _opened(path)
    keys = ("audio_acoustic_hidden_dim", "pool_window_size", "num_attention_pooler_hidden_layers", "fsq_dim")
    config = _inner_config(checkpoint, *keys, "fsq_input_levels", "fsq_input_num_quantizers")
    tokenizer: AceStepAudioTokenizer = _on_meta(AceStepAudioTokenizer, **config)
    # The quantiser's tables are constants that no file holds: take those of a small real one.
    levels, num_quantizers = config["fsq_input_levels"], config["fsq_input_num_quantizers"]
    constants = type(tokenizer.quantizer)(dim=1, levels=levels, num_quantizers=num_quantizers)
    for name, buffer in constants.named_buffers():
        setattr(tokenizer.quantizer, name, buffer.to(device))
    return _part(checkpoint, "tokenizer.", tokenizer, device, dtype)


def load_audio_detokenizer(
    path: Source, *, device: Device = "cpu", dtype: torch.dtype = torch.float32
) -> AceStepAudioTokenDetokenizer:
    """Audio codes at 5 Hz back to context at 25 Hz. Raises CheckpointError."""
    checkpoint = _opened(path)
    keys = ("audio_acoustic_hidden_dim", "pool_window_size", "num_attention_pooler_hidden_layers")
    detokenizer: AceStepAudioTokenDetokenizer = _on_meta(
        AceStepAudioTokenDetokenizer, **_inner_config(checkpoint, *keys)
    )
    return _part(checkpoint, "detokenizer.", detokenizer, device, dtype)


def load_null_condition(path: Source, *, device: Device = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
    """[1, 1, D] the learned "no condition" token. Raises CheckpointError."""
    checkpoint = _opened(path)
    prefix = "encoder." if checkpoint.layout == "diffusers" else NULL_CONDITION
    found = {key: tensor for key, tensor in tensor_infos(checkpoint, prefix).items() if key == NULL_CONDITION}
    check_shapes(checkpoint.folder, {NULL_CONDITION: (1, 1, encoder_sizes(checkpoint.config)["hidden_size"])}, found)
    return _read(found, device, dtype)[NULL_CONDITION]


def load_silence_latent(path: Source, *, device: Device = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
    """[1, F, C] what the VAE makes of silence, for as many frames as the file has. Raises CheckpointError."""
    checkpoint = _opened(path)
    if checkpoint.layout == "diffusers":
        stored = read_tensor_infos(checkpoint.folder / "condition_encoder", "diffusion_pytorch_model")
        if "silence_latent" not in stored:
            raise CheckpointError(f"{checkpoint.folder / 'condition_encoder'} lacks silence_latent")
        return _read({"": stored["silence_latent"]}, device, dtype)[""]
    file = checkpoint.folder / SILENCE_FILE
    try:
        latent = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing", hint="Download the model again.") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as problem:
        hint = "Nothing of it was executed. Download the model again."
        raise CheckpointError(f"{file} is damaged, or holds something else than a tensor", hint=hint) from problem
    channels = checkpoint.config["timbre_hidden_dim"]
    if not isinstance(latent, Tensor) or latent.dim() != 3 or latent.shape[:2] != (1, channels) or not latent.shape[2]:
        raise CheckpointError(f"{file} does not hold a tensor of shape [1, {channels}, frames]")
    return latent.transpose(1, 2).contiguous().to(device, dtype)


def load_vae(path: Source, *, device: Device = "cpu", dtype: torch.dtype = torch.float32) -> AutoencoderOobleck:
    """The VAE beside a checkpoint, weight normalisation folded in, tiling on. Raises CheckpointError."""
    folder = _opened(path).vae_folder
    config = read_json(folder / "config.json", error=CheckpointError, hint="Download the VAE again.")
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*weight_norm")  # diffusers 0.42.1
        vae: AutoencoderOobleck = AutoencoderOobleck.from_config(config)
    stored = read_tensor_infos(folder, "diffusion_pytorch_model")
    check_shapes(folder, {name: tuple(tensor.shape) for name, tensor in vae.state_dict().items()}, stored)
    vae.load_state_dict(_read(stored), assign=True)
    # The normalised weights are plain attributes that ``.to(device)`` leaves behind.
    for module in vae.modules():
        if hasattr(module, "weight_g"):
            remove_weight_norm(module)
    vae.load_state_dict({name: tensor.to(device, dtype) for name, tensor in vae.state_dict().items()}, assign=True)
    vae.use_tiling = True
    return _frozen(vae)


def load_text_encoder(path: Source, *, device: Device = "cpu", dtype: torch.dtype = torch.float32) -> TextEncoder:
    """The text encoder beside a checkpoint, with its tokenizer. Raises CheckpointError."""
    checkpoint = _opened(path)
    folder = checkpoint.text_encoder_folder
    read_tensor_infos(folder, "model")
    disable_progress_bar()  # type: ignore[no-untyped-call]  # progress is told by events
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.text_tokenizer_folder, local_files_only=True)
        model, report = AutoModel.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as problem:
        raise CheckpointError(
            f"{folder} cannot be loaded: {problem}", hint="Download the text encoder again."
        ) from None
    if wrong := [*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]]:
        raise CheckpointError(f"{folder} does not fit its config.json: {wrong[0]}", hint="Download it again.")
    width, found = checkpoint.config["text_hidden_dim"], model.config.hidden_size
    if width != found:
        raise CheckpointError(f"{folder} is {found} wide, {checkpoint.name} needs {width}", hint="Keep models apart.")
    return TextEncoder(tokenizer, _frozen(model.to(device)))


def _xl_timbre_encoder(encoder: AceStepTimbreEncoder) -> TimbreEncoderXL:
    config = {key: value for key, value in encoder.config.items() if not key.startswith("_")}
    return _on_meta(TimbreEncoderXL, **config)


def _opened(path: Source) -> Checkpoint:
    return path if isinstance(path, Checkpoint) else find_checkpoint(path)


def _inner_config(checkpoint: Checkpoint, *keys: str) -> dict[str, Any]:
    """Settings of a part outside the decoder: layer sizes and ``keys``."""
    common = {key: checkpoint.config[key] for key in (*_LAYER_KEYS, *keys)}
    return {**common, **encoder_sizes(checkpoint.config)}


def _on_meta(module_type: type[M], **config: Any) -> M:
    with torch.device("meta"):
        return module_type(**config)


def _part(
    checkpoint: Checkpoint,
    prefix: str,
    module: M,
    device: Device,
    dtype: torch.dtype,
    extra: dict[str, Tensor] | None = None,
) -> M:
    """``module`` with the weights under ``prefix`` and those of ``extra``, frozen."""
    extra = extra or {}
    stored = {
        original_to_diffusers(key.removeprefix(prefix)): tensor
        for key, tensor in tensor_infos(checkpoint, prefix).items()
        if key.startswith(prefix)
    }
    expected = {name: tuple(weight.shape) for name, weight in module.state_dict().items() if name not in extra}
    check_shapes(checkpoint.folder, expected, stored)
    rest = {name: tensor.to(device, dtype) for name, tensor in extra.items()}
    module.load_state_dict({**_read(stored, device, dtype), **rest}, assign=True)
    return _frozen(module)


def _read(stored: dict[str, TensorInfo], device: Device = "cpu", dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Copies of the stored tensors, each file opened once; in their own type where none is asked for.

    Copies, because results on tensors mapped from a file differ in the last bits by where in the file they lie.
    """
    tensors: dict[str, Tensor] = {}
    by_file = sorted(stored.items(), key=lambda item: str(item[1].file))
    for file, group in itertools.groupby(by_file, key=lambda item: item[1].file):
        with safe_open(file, framework="pt") as content:
            for name, tensor in group:
                tensors[name] = content.get_tensor(tensor.name).to(device=device, dtype=dtype, copy=True)
    return tensors


def _frozen(module: M) -> M:
    left = [name for name, tensor in (*module.named_parameters(), *module.named_buffers()) if tensor.is_meta]
    assert not left, f"without weights: {left}"
    return module.requires_grad_(False).eval()
