"""The files of a merged model: which tensors each contains, and which files are copied unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
from diffusers import AceStepTransformer1DModel
from diffusers.pipelines.ace_step.modeling_ace_step import (
    AceStepAudioTokenDetokenizer,
    AceStepAudioTokenizer,
    AceStepConditionEncoder,
)
from torch import Tensor

from acestep.core.errors import CheckpointError
from acestep.core.files import read_json
from acestep.models.checkpoint import SILENCE_FILE, Checkpoint, check_vae_and_text_encoder, tensor_infos
from acestep.models.key_mapping import NULL_CONDITION, SUBFOLDERS, original_to_diffusers
from acestep.models.load import load_silence_latent
from acestep.models.safetensors_header import TensorInfo, read_safetensors_header
from acestep.models.weight_shapes import encoder_sizes

_WEIGHTS = "diffusion_pytorch_model.safetensors"
_KEPT = ("config.json", SILENCE_FILE, "*.safetensors.index.json", "*.py", "LICENSE*")
_CLASSES: dict[str, Any] = {
    "transformer": AceStepTransformer1DModel,
    "condition_encoder": AceStepConditionEncoder,
    "audio_tokenizer": AceStepAudioTokenizer,
    "audio_token_detokenizer": AceStepAudioTokenDetokenizer,
}
_SCHEDULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1, "shift": 1.0}


@dataclass(frozen=True, slots=True)
class FileTensor:
    """One tensor of a new file.

    Attributes:
        name: name in the new file.
        original: name in a checkpoint with the original layout.
        values: the tensor, or where it is stored.
    """

    name: str
    original: str
    values: TensorInfo | Tensor


@dataclass(frozen=True, slots=True)
class MergedFiles:
    """All files of a merged model. Paths are relative to its folder.

    Attributes:
        weights: tensors of each safetensors file.
        copies: target path -> file to copy.
        texts: target path -> content of a JSON file.
    """

    weights: dict[Path, list[FileTensor]] = field(default_factory=dict)
    copies: dict[Path, Path] = field(default_factory=dict)
    texts: dict[Path, dict[str, Any]] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        tensors = [tensor.values for tensors in self.weights.values() for tensor in tensors]
        streamed = sum(v.nbytes if isinstance(v, Tensor) else v.end - v.start for v in tensors)
        return streamed + sum(source.stat().st_size for source in self.copies.values())


def same_layout(checkpoint: Checkpoint) -> MergedFiles:
    """The same files as in the checkpoint. Raises CheckpointError."""
    folder, names = checkpoint.folder, {}
    for original, stored in tensor_infos(checkpoint, "decoder.").items():
        names[stored.file, stored.name] = original
    plan = MergedFiles()
    for file in sorted({file for file, _ in names}):
        header = sorted(read_safetensors_header(file).values(), key=lambda stored: stored.start)
        tensors = [FileTensor(stored.name, names.get((file, stored.name), stored.name), stored) for stored in header]
        plan.weights[file.relative_to(folder)] = tensors
    kept = (folder.glob(pattern) for pattern in _KEPT) if checkpoint.layout == "original" else [folder.rglob("*")]
    for source in (source for sources in kept for source in sources if source.is_file()):
        path = source.relative_to(folder)
        if path not in plan.weights and path.name != "README.md" and path.parts[0] != ".cache":
            plan.copies[path] = source
    if checkpoint.layout == "original":
        for file in {stored.file for stored in tensor_infos(checkpoint).values()}:
            path = file.relative_to(folder)
            if path not in plan.weights:  # a shard without decoder weights
                plan.copies[path] = file
    return plan


def diffusers_layout(checkpoint: Checkpoint) -> MergedFiles:
    """A complete diffusers pipeline from a checkpoint and its VAE and text encoder.

    Raises:
        CheckpointError: a companion is missing.
    """
    check_vae_and_text_encoder(checkpoint)
    plan = MergedFiles()
    for prefix, part in SUBFOLDERS.items():
        stored = tensor_infos(checkpoint, prefix)
        tensors = [
            FileTensor(original_to_diffusers(key.removeprefix(prefix)), key, each) for key, each in stored.items()
        ]
        if part == "condition_encoder":
            null = tensor_infos(checkpoint, NULL_CONDITION)[NULL_CONDITION]
            tensors.append(FileTensor(NULL_CONDITION, NULL_CONDITION, null))
            tensors.append(FileTensor("silence_latent", "", load_silence_latent(checkpoint)))
        plan.weights[Path(part, _WEIGHTS)] = tensors
        plan.texts[Path(part, "config.json")] = _part_config(checkpoint, part)
    plan.copies.update(_companions(checkpoint))
    plan.texts[Path("scheduler", "scheduler_config.json")] = _SCHEDULER
    plan.texts[Path("model_index.json")] = _index(checkpoint)
    return plan


def _part_config(checkpoint: Checkpoint, part: str) -> dict[str, Any]:
    """The config of ``part``, as ``save_pretrained`` writes it."""
    config, wanted = dict(checkpoint.config), _CLASSES[part]
    if part == "transformer":
        config |= {"is_turbo": checkpoint.is_turbo, "model_version": checkpoint.variant}
    else:
        config |= encoder_sizes(config)
        config["layer_types"] = None
    names = wanted._get_init_keys(wanted)
    found = {key: value for key, value in config.items() if key in names and value is not None}
    return {"_class_name": wanted.__name__, "_diffusers_version": diffusers.__version__, **found}


def _companions(checkpoint: Checkpoint) -> Iterator[tuple[Path, Path]]:
    """Target and source of the files of the VAE, text encoder and tokenizer."""
    for source in sorted(checkpoint.vae_folder.iterdir()):
        if source.suffix in (".json", ".safetensors"):
            yield Path("vae", source.name), source
    for source in sorted(checkpoint.text_encoder_folder.iterdir()):
        model = source.name in ("config.json", "generation_config.json") or source.name.startswith("model")
        if source.suffix in (".json", ".safetensors", ".txt", ".jinja"):
            yield Path("text_encoder" if model else "tokenizer", source.name), source


def _index(checkpoint: Checkpoint) -> dict[str, Any]:
    tokenizer = read_json(checkpoint.text_tokenizer_folder / "tokenizer_config.json", error=CheckpointError)
    return {
        "_class_name": "AceStepPipeline",
        "_diffusers_version": diffusers.__version__,
        "vae": ["diffusers", "AutoencoderOobleck"],
        "text_encoder": ["transformers", "Qwen3Model"],  # without the head that the folder's config may name
        "tokenizer": ["transformers", tokenizer["tokenizer_class"]],
        "scheduler": ["diffusers", _SCHEDULER["_class_name"]],
        "transformer": ["diffusers", "AceStepTransformer1DModel"],
        **{part: ["ace_step", kind.__name__] for part, kind in _CLASSES.items() if part != "transformer"},
    }
