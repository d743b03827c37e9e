"""Find, describe, check and identify checkpoint folders. Importing this module does not import torch.

Two layouts are supported. The original layout has ``config.json``, ``model.safetensors`` (or shards) and
``silence_latent.pt`` in one folder; its VAE and text encoder are the sibling folders ``vae`` and
``Qwen3-Embedding-0.6B``. The diffusers layout has one subfolder per pipeline component. A merged model in the original
layout may be anywhere: its ``merge.json`` names the folder of its VAE and text encoder.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from loguru import logger

from acestep.core.errors import CheckpointError
from acestep.core.files import read_json, read_versioned
from acestep.core.paths import checkpoint_roots, typed_path
from acestep.core.registry import nearest_hint
from acestep.core.untrusted import is_file, is_folder, shorten
from acestep.models.config_checks import check_config
from acestep.models.key_mapping import NULL_CONDITION, SUBFOLDERS, original_key
from acestep.models.safetensors_header import TensorInfo, check_shapes, read_tensor_infos
from acestep.models.weight_shapes import DEFAULTS, expected_shapes, is_xl

Layout = Literal["original", "diffusers"]

NAME_PREFIX = "acestep-v15-"
SILENCE_FILE = "silence_latent.pt"
MERGE_FILE, MERGED_MODEL = "merge.json", "merged model"  # marker file of a merged model, and its kind
COMPONENTS_KEY = "components"  # in that file: the folder that contains the VAE and the text encoder of the base model
_FINGERPRINT_VALUES = 4096  # leading values of each tensor that are hashed
_VARIANTS = ("turbo", "base", "sft")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder.

    Attributes:
        name: name of the resolved folder.
        config: keys of an original ``config.json`` in both layouts, with defaults filled in.
    """

    name: str
    folder: Path
    layout: Layout
    config: dict[str, Any]

    @property
    def family(self) -> Literal["2b", "xl"]:
        return "xl" if is_xl(self.config) else "2b"

    @property
    def is_turbo(self) -> bool:
        return self.variant == "turbo"

    @property
    def variant(self) -> str:
        """``turbo``, ``base`` or ``sft``, from ``is_turbo`` in the config, the folder name and ``model_version``."""
        words = re.split(r"[^a-z]+", self.name.lower())
        candidates = [*words, str(self.config.get("model_version") or "").lower()]
        if (turbo := self.config.get("is_turbo")) is not None:
            if turbo:
                return "turbo"
            candidates = [word for word in candidates if word != "turbo"]
        return next((word for word in candidates if word in _VARIANTS), "base" if turbo is False else "turbo")

    @property
    def components_root(self) -> Path:
        """The folder that contains the VAE and the text encoder. If none does, the parent of the checkpoint.

        The one that a merge recorded comes first: another folder may hold a text encoder of another size.
        """
        if self.layout == "diffusers":
            return self.folder
        folders = [*_recorded_components(self.folder), self.folder.parent, self.folder, *checkpoint_roots()]
        return next((folder for folder in folders if is_file(folder / "vae" / "config.json")), self.folder.parent)

    @property
    def vae_folder(self) -> Path:
        return self.components_root / "vae"

    @property
    def text_encoder_folder(self) -> Path:
        return self.components_root / ("text_encoder" if self.layout == "diffusers" else "Qwen3-Embedding-0.6B")

    @property
    def text_tokenizer_folder(self) -> Path:
        return self.components_root / "tokenizer" if self.layout == "diffusers" else self.text_encoder_folder

    @property
    def timestep_mu(self) -> float:
        """Mean of the logit-normal timestep distribution."""
        return float(self.config["timestep_mu"])

    @property
    def timestep_sigma(self) -> float:
        """Standard deviation of the logit-normal timestep distribution."""
        return float(self.config["timestep_sigma"])


def find_checkpoint(name_or_path: str | Path, custom_root: Path | None = None) -> Checkpoint:
    """Return the checkpoint with this path, or with this name in the checkpoint roots.

    Args:
        custom_root: a checkpoint root to search before the default ones.

    Raises:
        CheckpointError: no such checkpoint (the message lists the searched folders), or an invalid config.json.
    """
    name = str(name_or_path)
    roots = checkpoint_roots(custom_root)
    path = name_or_path if isinstance(name_or_path, Path) else typed_path(name)
    for folder in [path, *(root / name for root in roots)]:
        if layout := _layout(folder):
            return _open(folder, layout)
    available = [checkpoint.name for checkpoint in list_checkpoints(custom_root)]
    searched = ", ".join(shorten(folder, 300) for folder in [path, *roots])
    raise CheckpointError(
        f"checkpoint {shorten(name, 300)!r} not found; searched {searched}",
        hint=nearest_hint(shorten(name), available) if available else "Download one, or pass the path of its folder.",
    )


def list_checkpoints(custom_root: Path | None = None) -> list[Checkpoint]:
    """Return the checkpoints in the checkpoint roots, sorted by name.

    If two have the same name, the first root wins. Folders with an invalid config.json are skipped with a warning.
    """
    checkpoints: dict[str, Checkpoint] = {}
    for root in checkpoint_roots(custom_root):
        for folder in sorted(root.glob(f"{NAME_PREFIX}*")):
            layout = _layout(folder)
            if layout and folder.name not in checkpoints:
                try:
                    checkpoints[folder.name] = _open(folder, layout)
                except CheckpointError as error:
                    logger.warning("skipping {}: {}", folder, error)
    return [checkpoints[name] for name in sorted(checkpoints)]


def _recorded_components(folder: Path) -> list[Path]:
    """The folder of the VAE and the text encoder that ``merge.json`` names; empty if there is none.

    A model may come from anyone, so network paths, which Windows would open with the user's credentials, are ignored.
    """
    if not is_file(folder / MERGE_FILE):
        return []
    try:
        recorded = read_versioned(folder / MERGE_FILE, MERGED_MODEL, 1, error=CheckpointError).get(COMPONENTS_KEY)
    except CheckpointError as error:
        logger.warning("{}", error)
        return []
    if not isinstance(recorded, str) or not recorded or recorded.startswith(("\\\\", "//")):
        return []
    return [folder / recorded]


def _layout(folder: Path) -> Layout | None:
    if is_file(folder / "transformer" / "config.json"):
        return "diffusers"
    return "original" if is_file(folder / "config.json") else None


def _open(folder: Path, layout: Layout) -> Checkpoint:
    config = _read_config(folder / "config.json") if layout == "original" else _merged_config(folder)
    config = {**DEFAULTS, **config}
    check_config(folder, config, DEFAULTS)
    return Checkpoint(name=folder.resolve().name, folder=folder, layout=layout, config=config)


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path, error=CheckpointError, hint="Download the model again.")
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} does not contain a JSON object", hint="Download the model again.")
    return config


def _merged_config(folder: Path) -> dict[str, Any]:
    """Merge the component configs of a diffusers folder into one original config; the transformer's keys win."""
    merged: dict[str, Any] = {}
    for subfolder in SUBFOLDERS.values():
        path = folder / subfolder / "config.json"
        if is_file(path) or subfolder == "transformer":
            merged = {**_read_config(path), **merged}
    encoder = folder / "condition_encoder" / "config.json"
    if merged.get("encoder_hidden_size") is not None and is_file(encoder):
        encoder_config = _read_config(encoder)
        for key in ("intermediate_size", "num_attention_heads", "num_key_value_heads"):
            merged[f"encoder_{key}"] = encoder_config.get(key)
    return {key: value for key, value in merged.items() if not key.startswith("_")}


def tensor_infos(checkpoint: Checkpoint, *prefixes: str) -> dict[str, TensorInfo]:
    """Map the original key of each weight to its ``TensorInfo``. Reads only safetensors headers.

    Args:
        prefixes: components to include, such as ``decoder.``; all components by default.

    Raises:
        CheckpointError: a file is missing or corrupted.
    """
    if checkpoint.layout == "original":
        tensors = read_tensor_infos(checkpoint.folder, "model")
        return {key: tensor for key, tensor in tensors.items() if not prefixes or key.startswith(prefixes)}
    infos: dict[str, TensorInfo] = {}
    for prefix in prefixes or _available_prefixes(checkpoint):
        subfolder = SUBFOLDERS[prefix]
        for key, tensor in read_tensor_infos(checkpoint.folder / subfolder, "diffusion_pytorch_model").items():
            if name := original_key(subfolder, key):
                infos[name] = tensor
    return infos


def _available_prefixes(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Key prefixes of the required and existing components. Audio tokenizers are optional in diffusers folders."""
    required = ("decoder.", "encoder.")
    if checkpoint.layout == "original":
        return tuple(SUBFOLDERS)
    return tuple(
        prefix for prefix in SUBFOLDERS if prefix in required or is_folder(checkpoint.folder / SUBFOLDERS[prefix])
    )


def check_checkpoint(checkpoint: Checkpoint) -> None:
    """Check that all files and weights exist with the shapes that config.json implies. Reads only headers.

    Raises:
        CheckpointError: a missing file, or a truncated, unexpected, missing or misshapen weight.
    """
    prefixes = (*_available_prefixes(checkpoint), NULL_CONDITION)
    expected = {key: shape for key, shape in expected_shapes(checkpoint.config).items() if key.startswith(prefixes)}
    check_shapes(checkpoint.folder, expected, tensor_infos(checkpoint))
    if checkpoint.layout == "original":
        _require_file(checkpoint.folder / SILENCE_FILE)


def check_vae_and_text_encoder(checkpoint: Checkpoint) -> None:
    """Check the files of the VAE, the text encoder and its tokenizer, reading headers only. Raises CheckpointError."""
    for folder, stem in ((checkpoint.vae_folder, "diffusion_pytorch_model"), (checkpoint.text_encoder_folder, "model")):
        _read_config(folder / "config.json")
        read_tensor_infos(folder, stem)
    _require_file(checkpoint.text_tokenizer_folder / "tokenizer_config.json")


def _require_file(path: Path) -> None:
    if not is_file(path) or path.stat().st_size == 0:
        raise CheckpointError(f"{path} is missing", hint="Download the model again.")


def encoder_fingerprint(checkpoint: Checkpoint) -> str:
    """Return 16 hex digits that identify the condition encoder.

    Preprocessed tensors are valid for every checkpoint with the same fingerprint. It is a SHA-256 over the name,
    shape and first 4096 values of each ``encoder.`` weight. Values are rounded to bfloat16, so the dtype and the
    layout of the checkpoint do not change it. Raises CheckpointError.
    """
    digest = hashlib.sha256()
    tensors = tensor_infos(checkpoint, "encoder.")
    for name in sorted(name for name in tensors if name.startswith("encoder.")):
        digest.update(f"{name} {tensors[name].shape}".encode())
        digest.update(_first_values(tensors[name]).tobytes())
    return digest.hexdigest()[:16]


def _first_values(tensor: TensorInfo) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """The first values of a tensor as bfloat16 bit patterns, rounded to nearest even."""
    if tensor.dtype not in ("F32", "F16", "BF16"):
        raise CheckpointError(f"{tensor.file}: {tensor.name} has dtype {tensor.dtype}, expected F32, F16 or BF16")
    width = 4 if tensor.dtype == "F32" else 2
    with tensor.file.open("rb") as file:
        file.seek(tensor.start)
        data = file.read(min(tensor.end - tensor.start, _FINGERPRINT_VALUES * width))
    if tensor.dtype == "BF16":
        return np.frombuffer(data, "<u2")
    values = np.frombuffer(data, "<f4") if width == 4 else np.frombuffer(data, "<f2").astype("<f4")
    bits = values.view("<u4").astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
