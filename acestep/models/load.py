"""Load the components of a checkpoint as frozen modules in evaluation mode.

Modules are created on the meta device and get their weights from the safetensors files under diffusers keys. Only
the requested component is read. No code of a checkpoint is executed and nothing is written to disk.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
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
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.utils import remove_weight_norm
from transformers import Qwen3Config, Qwen3Model
from transformers.utils.logging import disable_progress_bar

from acestep.core.errors import CheckpointError
from acestep.core.untrusted import read_file, shorten
from acestep.models.checkpoint import SILENCE_FILE, Checkpoint, find_checkpoint, tensor_infos
from acestep.models.condition import TimbreEncoderXL
from acestep.models.dit import AceStepDiT
from acestep.models.key_mapping import NULL_CONDITION, original_to_diffusers
from acestep.models.load_progress import count_read, folder_bytes
from acestep.models.mps import attention_implementation
from acestep.models.pretrained import load_tokenizer, read_model_config
from acestep.models.safetensors_data import DTYPES
from acestep.models.safetensors_header import TensorInfo, check_shapes, read_tensor_infos
from acestep.models.text import TextEncoder
from acestep.models.torch_archive import ArchiveError, load_archive, unusual
from acestep.models.vae_tiles import decoder_tiles
from acestep.models.weight_shapes import encoder_sizes

M = TypeVar("M", bound=nn.Module)
CheckpointSource = str | Path | Checkpoint
Device = torch.device | str

_CONFIG_ERRORS = (ValueError, TypeError, RuntimeError, LookupError, AttributeError, ArithmeticError, AssertionError)
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


def load_dit(
    path: CheckpointSource, *, device: Device = "cpu", dtype: torch.dtype = torch.float32, mapped: bool = False
) -> AceStepDiT:
    """Load the decoder; only ``decoder.`` weights are read. Raises CheckpointError.

    With ``mapped``, weights that have the dtype stay in the memory-mapped file, to be moved to a device one by one.
    """
    checkpoint = _as_checkpoint(path)
    return _load_weights(checkpoint, "decoder.", empty_dit(checkpoint), device, dtype, mapped=mapped)


def empty_dit(checkpoint: Checkpoint) -> AceStepDiT:
    """The decoder of a checkpoint without weights, on the meta device."""
    config = {key: checkpoint.config[key] for key in _DIT_KEYS}
    # AceStepPipeline reads is_turbo from the transformer config to decide about guidance.
    dit: AceStepDiT = _on_meta(AceStepDiT, **config, is_turbo=checkpoint.is_turbo, model_version=checkpoint.variant)
    return dit


def load_condition_encoder(
    path: CheckpointSource, *, device: Device = "cpu", dtype: torch.dtype = torch.float32
) -> AceStepConditionEncoder:
    """Load the encoder of text, lyrics and reference audio, including the null condition and silence latent.

    ``AceStepPipeline`` expects both tensors in this module. Raises CheckpointError.
    """
    checkpoint = _as_checkpoint(path)
    keys = ("text_hidden_dim", "timbre_hidden_dim", "num_lyric_encoder_hidden_layers")
    config = _encoder_config(checkpoint, *keys, "num_timbre_encoder_hidden_layers")
    types = checkpoint.config["layer_types"]
    config["layer_types"] = types and types[: config["num_lyric_encoder_hidden_layers"]]
    encoder: AceStepConditionEncoder = _on_meta(AceStepConditionEncoder, **config)
    if checkpoint.family == "xl":
        encoder.timbre_encoder = _xl_timbre_encoder(encoder.timbre_encoder)
    encoder.silence_latent = load_silence_latent(checkpoint)  # any length; the module is created with 15,000 frames
    extra = {NULL_CONDITION: load_null_condition(checkpoint), "silence_latent": encoder.silence_latent}
    return _load_weights(checkpoint, "encoder.", encoder, device, dtype, extra)


def load_audio_tokenizer(
    path: CheckpointSource, *, device: Device = "cpu", dtype: torch.dtype = torch.float32
) -> AceStepAudioTokenizer:
    """Load the tokenizer of latents at 25 Hz to audio codes at 5 Hz. Raises CheckpointError."""
    checkpoint = _as_checkpoint(path)
    keys = ("audio_acoustic_hidden_dim", "pool_window_size", "num_attention_pooler_hidden_layers", "fsq_dim")
    config = _encoder_config(checkpoint, *keys, "fsq_input_levels", "fsq_input_num_quantizers")
    tokenizer: AceStepAudioTokenizer = _on_meta(AceStepAudioTokenizer, **config)
    # The buffers of the quantizer are constants that checkpoints do not contain: copy them from a small instance.
    levels, num_quantizers = config["fsq_input_levels"], config["fsq_input_num_quantizers"]
    constants = type(tokenizer.quantizer)(dim=1, levels=levels, num_quantizers=num_quantizers)
    for name, buffer in constants.named_buffers():
        setattr(tokenizer.quantizer, name, buffer.to(device))
    return _load_weights(checkpoint, "tokenizer.", tokenizer, device, dtype)


def load_audio_detokenizer(
    path: CheckpointSource, *, device: Device = "cpu", dtype: torch.dtype = torch.float32
) -> AceStepAudioTokenDetokenizer:
    """Load the detokenizer of audio codes at 5 Hz to source latents at 25 Hz. Raises CheckpointError."""
    checkpoint = _as_checkpoint(path)
    keys = ("audio_acoustic_hidden_dim", "pool_window_size", "num_attention_pooler_hidden_layers")
    detokenizer: AceStepAudioTokenDetokenizer = _on_meta(
        AceStepAudioTokenDetokenizer, **_encoder_config(checkpoint, *keys)
    )
    return _load_weights(checkpoint, "detokenizer.", detokenizer, device, dtype)


def load_null_condition(
    path: CheckpointSource, *, device: Device = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    """Load the learned null condition token, [1, 1, D]. Raises CheckpointError."""
    checkpoint = _as_checkpoint(path)
    prefix = "encoder." if checkpoint.layout == "diffusers" else NULL_CONDITION
    infos = {key: tensor for key, tensor in tensor_infos(checkpoint, prefix).items() if key == NULL_CONDITION}
    check_shapes(checkpoint.folder, {NULL_CONDITION: (1, 1, encoder_sizes(checkpoint.config)["hidden_size"])}, infos)
    return _read_tensors(infos, device, dtype)[NULL_CONDITION]


def load_silence_latent(
    path: CheckpointSource, *, device: Device = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    """Load the latents that the VAE gives for silence, [1, F, C], F as in the file. Raises CheckpointError."""
    checkpoint = _as_checkpoint(path)
    if checkpoint.layout == "diffusers":
        infos = read_tensor_infos(checkpoint.folder / "condition_encoder", "diffusion_pytorch_model")
        if "silence_latent" not in infos:
            raise CheckpointError(f"{checkpoint.folder / 'condition_encoder'} is missing the tensor silence_latent")
        return _read_tensors({"": infos["silence_latent"]}, device, dtype)[""]
    file = checkpoint.folder / SILENCE_FILE
    try:
        latent = load_archive(read_file(file))
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing", hint="Download the model again.") from None
    except (ArchiveError, OSError) as error:
        hint = "No code in it was executed. Download the model again."
        message = f"{file} is corrupted or contains something other than a tensor: it {error}"
        raise CheckpointError(message, hint=hint) from None
    channels = checkpoint.config["timbre_hidden_dim"]
    if not isinstance(latent, Tensor) or latent.dim() != 3 or latent.shape[:2] != (1, channels) or not latent.shape[2]:
        raise CheckpointError(f"{file} does not contain a tensor of shape [1, {channels}, frames]")
    if problem := unusual(latent) or ("" if torch.isfinite(latent).all() else "contains NaN or infinite values"):
        raise CheckpointError(f"{file}: the tensor {problem}", hint="Download the model again.")
    return latent.transpose(1, 2).contiguous().to(device, dtype)


def load_vae(
    path: CheckpointSource, *, device: Device = "cpu", dtype: torch.dtype = torch.float32
) -> AutoencoderOobleck:
    """Load the VAE of a checkpoint with weight normalization removed and tiling enabled. Raises CheckpointError."""
    folder = _as_checkpoint(path).vae_folder
    config = read_model_config(folder)
    with warnings.catch_warnings(), torch.device("meta"), _config_errors(folder):
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*weight_norm")  # diffusers 0.42.1
        vae: AutoencoderOobleck = AutoencoderOobleck.from_config(config)
    infos = read_tensor_infos(folder, "diffusion_pytorch_model")
    check_shapes(folder, {name: tuple(tensor.shape) for name, tensor in vae.state_dict().items()}, infos)
    vae.load_state_dict(_read_tensors(infos), assign=True)
    # Weight norm keeps the computed weight in a plain attribute, which ``.to(device)`` does not move.
    with _config_errors(folder):  # the two weights of a module may have different dtypes
        for module in vae.modules():
            if hasattr(module, "weight_g"):
                remove_weight_norm(module)
    nn.Module.to(vae, device=device, dtype=dtype)  # one parameter at a time
    vae.use_tiling = True
    vae.tile_latent_min_length, vae.tile_latent_overlap = decoder_tiles(vae.upsampling_ratios)
    return _freeze(vae)


def load_text_encoder(
    path: CheckpointSource, *, device: Device = "cpu", dtype: torch.dtype = torch.float32
) -> TextEncoder:
    """Load the text encoder of a checkpoint and its tokenizer. Raises CheckpointError."""
    checkpoint = _as_checkpoint(path)
    folder = checkpoint.text_encoder_folder
    read_tensor_infos(folder, "model")
    disable_progress_bar()  # type: ignore[no-untyped-call]  # progress is reported by events
    try:
        config = _text_encoder_config(folder)
        tokenizer = load_tokenizer(checkpoint.text_tokenizer_folder)
        model_type: Any = Qwen3Model
        model, report = model_type.from_pretrained(
            folder,
            config=config,
            attn_implementation=attention_implementation(device),
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, StrictDataclassError, *_CONFIG_ERRORS) as error:
        message = f"{folder} cannot be loaded: {shorten(error, 500)}"
        raise CheckpointError(message, hint="Download the text encoder again.") from None
    if keys := [*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]]:
        raise CheckpointError(
            f"{folder} does not match its config.json: {keys[0]}", hint="Download the text encoder again."
        )
    expected, actual = checkpoint.config["text_hidden_dim"], model.config.hidden_size
    if actual != expected:
        raise CheckpointError(
            f"{folder} has hidden size {actual}, {checkpoint.name} needs {expected}",
            hint=f"Use the text encoder that was published with {checkpoint.name}.",
        )
    count_read(folder_bytes(folder))
    return TextEncoder(tokenizer, _freeze(_moved(model, device, dtype, read_tensor_infos(folder, "model"))))


def _moved(module: M, device: Device, dtype: torch.dtype, infos: dict[str, TensorInfo]) -> M:
    """``module`` on the device. On the CPU, a weight whose dtype was not converted is still in the memory-mapped file,
    and is copied; see ``_read_tensors``."""
    if torch.device(device).type == "cpu" and dtype in {DTYPES.get(tensor.dtype) for tensor in infos.values()}:
        for parameter in module.parameters():
            parameter.data = parameter.data.clone()
    return module.to(device)


def _text_encoder_config(folder: Path) -> Qwen3Config:
    config = read_model_config(folder)
    if config.get("model_type") != "qwen3":
        message = f"{folder} contains a model of type {config.get('model_type')!r}, expected 'qwen3'"
        raise CheckpointError(message, hint="Download the text encoder again.")
    found = {name.partition("layers.")[2].partition(".")[0] for name in read_tensor_infos(folder, "model")} - {""}
    if len(found) != config.get("num_hidden_layers"):  # missing layers would take memory before they are reported
        stated = f"config.json states {config.get('num_hidden_layers')!r}"
        raise CheckpointError(f"{folder} has {len(found)} layers, {stated}", hint="Download the text encoder again.")
    return Qwen3Config(**config)


def _xl_timbre_encoder(encoder: AceStepTimbreEncoder) -> TimbreEncoderXL:
    config = {key: value for key, value in encoder.config.items() if not key.startswith("_")}
    return _on_meta(TimbreEncoderXL, **config)


def _as_checkpoint(path: CheckpointSource) -> Checkpoint:
    return path if isinstance(path, Checkpoint) else find_checkpoint(path)


def _encoder_config(checkpoint: Checkpoint, *keys: str) -> dict[str, Any]:
    """Config of an encoder or tokenizer: layer sizes and ``keys``."""
    common = {key: checkpoint.config[key] for key in (*_LAYER_KEYS, *keys)}
    return {**common, **encoder_sizes(checkpoint.config)}


def _on_meta(module_type: type[M], **config: Any) -> M:
    with torch.device("meta"), _config_errors(module_type.__name__):
        return module_type(**config)


@contextmanager
def _config_errors(what: Path | str) -> Iterator[None]:
    """Convert the errors of a module that is built from an invalid config to CheckpointError."""
    try:
        yield
    except _CONFIG_ERRORS as error:
        message = f"{what} cannot be created from its config.json: {shorten(error, 500)}"
        raise CheckpointError(message, hint="Download the model again.") from None


def _load_weights(
    checkpoint: Checkpoint,
    prefix: str,
    module: M,
    device: Device,
    dtype: torch.dtype,
    extra: dict[str, Tensor] | None = None,
    *,
    mapped: bool = False,
) -> M:
    """Load the weights under ``prefix`` and the tensors in ``extra`` into ``module`` and freeze it."""
    extra = extra or {}
    infos = {
        original_to_diffusers(key.removeprefix(prefix)): tensor
        for key, tensor in tensor_infos(checkpoint, prefix).items()
        if key.startswith(prefix)
    }
    expected = {name: tuple(weight.shape) for name, weight in module.state_dict().items() if name not in extra}
    check_shapes(checkpoint.folder, expected, infos)
    extra = {name: tensor.to(device, dtype) for name, tensor in extra.items()}
    module.load_state_dict({**_read_tensors(infos, device, dtype, mapped=mapped), **extra}, assign=True)
    return _freeze(module)


def _read_tensors(
    infos: dict[str, TensorInfo], device: Device = "cpu", dtype: torch.dtype | None = None, *, mapped: bool = False
) -> dict[str, Tensor]:
    """Read tensors, opening each file once. Without ``dtype`` they keep their own.

    Tensors go from the memory-mapped file to the device, without a copy in CPU memory where CUDA converts them. On the
    CPU they are copied unless ``mapped``: the alignment of memory-mapped tensors changes the last bits of results, a
    change of the file would change the weights, and Windows does not let a file be replaced while it is mapped.
    """
    copy = torch.device(device).type == "cpu" and not mapped
    tensors: dict[str, Tensor] = {}
    by_file = sorted(infos.items(), key=lambda item: str(item[1].file))
    for file, group in itertools.groupby(by_file, key=lambda item: item[1].file):
        try:
            with safe_open(file, framework="pt") as opened:
                for name, tensor in group:
                    stored = opened.get_tensor(tensor.name)
                    if torch.device(device).type == "cuda":  # others may lack the stored dtype
                        stored = stored.to(device)
                    tensors[name] = stored.to(device=device, dtype=dtype, copy=copy)
                    count_read(tensor.end - tensor.start)
        except (SafetensorError, OSError, AttributeError) as error:  # AttributeError: a dtype that PyTorch lacks
            raise CheckpointError(f"{file} cannot be read: {error}", hint="Download the model again.") from None
    return tensors


def _freeze(module: M) -> M:
    missing = [name for name, tensor in (*module.named_parameters(), *module.named_buffers()) if tensor.is_meta]
    assert not missing, f"still on the meta device: {missing}"
    return module.requires_grad_(False).eval()
