"""Checkpoint folders: found by name or path, described, checked and told apart, without torch.

Two layouts are read (INTEROP B8). The original one has ``config.json``, ``model.safetensors`` (or shards) and
``silence_latent.pt``, beside the folders ``vae`` and ``Qwen3-Embedding-0.6B``; the diffusers one has a folder a part.
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
from acestep.core.files import read_json
from acestep.core.paths import checkpoint_roots, typed_path
from acestep.core.registry import nearest_hint
from acestep.models.key_mapping import NULL_CONDITION, SUBFOLDERS, original_key
from acestep.models.safetensors_header import TensorInfo, check_shapes, read_tensor_infos
from acestep.models.weight_shapes import DEFAULTS, expected_shapes, is_xl

Layout = Literal["original", "diffusers"]

NAME_PREFIX = "acestep-v15-"
SILENCE_FILE = "silence_latent.pt"
_SAMPLED = 4096  # values of each tensor that a fingerprint looks at
_VARIANTS = ("turbo", "base", "sft")


@dataclass(frozen=True)
class Checkpoint:
    """One DiT folder. ``config`` has the keys of an original config.json in both layouts, defaults filled in."""

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
        """``turbo``, ``base`` or ``sft``. The configuration decides about turbo, the folder's name about the rest."""
        words = re.split(r"[^a-z]+", self.name.lower())
        told = [*words, str(self.config.get("model_version") or "").lower()]
        if (turbo := self.config.get("is_turbo")) is not None:
            if turbo:
                return "turbo"
            told = [word for word in told if word != "turbo"]
        return next((word for word in told if word in _VARIANTS), "base" if turbo is False else "turbo")

    @property
    def components_root(self) -> Path:
        """The folder that holds the VAE and the text encoder; where it should be, if there is none."""
        if self.layout == "diffusers":
            return self.folder
        near = [self.folder.parent, self.folder, *checkpoint_roots()]
        return next((folder for folder in near if (folder / "vae" / "config.json").is_file()), self.folder.parent)

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
        """Mean of the normal distribution behind the logit-normal timesteps."""
        return float(self.config["timestep_mu"])

    @property
    def timestep_sigma(self) -> float:
        return float(self.config["timestep_sigma"])


def find_checkpoint(name_or_path: str | Path, custom_root: Path | None = None) -> Checkpoint:
    """The checkpoint of that name in the checkpoint folders, or in the folder of that path.

    Raises:
        CheckpointError: there is none, with the places that were searched; or its config.json is damaged.
    """
    name = str(name_or_path)
    roots = checkpoint_roots(custom_root)
    path = name_or_path if isinstance(name_or_path, Path) else typed_path(name)
    for folder in [path, *(root / name for root in roots)]:
        if layout := _layout(folder):
            return _open(folder, layout)
    known = [checkpoint.name for checkpoint in list_checkpoints(custom_root)]
    raise CheckpointError(
        f"no checkpoint {name!r} found; searched {', '.join(str(folder) for folder in [path, *roots])}",
        hint=nearest_hint(name, known) if known else "Download one, or give the path of its folder.",
    )


def list_checkpoints(custom_root: Path | None = None) -> list[Checkpoint]:
    """The checkpoints in the checkpoint folders, by name; of two with one name the first found. Damaged ones are
    left out with a warning."""
    found: dict[str, Checkpoint] = {}
    for root in checkpoint_roots(custom_root):
        for folder in sorted(root.glob(f"{NAME_PREFIX}*")):
            layout = _layout(folder)
            if layout and folder.name not in found:
                try:
                    found[folder.name] = _open(folder, layout)
                except CheckpointError as problem:
                    logger.warning("{} is left out: {}", folder, problem)
    return [found[name] for name in sorted(found)]


def _layout(folder: Path) -> Layout | None:
    if (folder / "transformer" / "config.json").is_file():
        return "diffusers"
    return "original" if (folder / "config.json").is_file() else None


def _open(folder: Path, layout: Layout) -> Checkpoint:
    config = _read_config(folder / "config.json") if layout == "original" else _gathered_config(folder)
    config = {**DEFAULTS, **config}
    wrong = [key for key, usual in DEFAULTS.items() if isinstance(usual, int) and not isinstance(config[key], int)]
    if wrong:
        told = f"{folder}: {wrong[0]} is {config[wrong[0]]!r} in its config, a whole number is expected"
        raise CheckpointError(told, hint="Download the model again.")
    if config["layer_types"] and len(config["layer_types"]) != config["num_hidden_layers"]:
        told = f"{folder}: layer_types does not name {config['num_hidden_layers']} layers in its config"
        raise CheckpointError(told, hint="Download the model again.")
    return Checkpoint(name=folder.resolve().name, folder=folder, layout=layout, config=config)


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path, error=CheckpointError, hint="Download the model again.")
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} does not hold a configuration", hint="Download the model again.")
    return config


def _gathered_config(folder: Path) -> dict[str, Any]:
    """One original configuration from those of the parts of a diffusers folder; the decoder's own keys win."""
    gathered: dict[str, Any] = {}
    for part in SUBFOLDERS.values():
        path = folder / part / "config.json"
        if path.is_file() or part == "transformer":
            gathered = {**_read_config(path), **gathered}
    encoder = folder / "condition_encoder" / "config.json"
    if gathered.get("encoder_hidden_size") is not None and encoder.is_file():
        inner = _read_config(encoder)
        for key in ("intermediate_size", "num_attention_heads", "num_key_value_heads"):
            gathered[f"encoder_{key}"] = inner.get(key)
    return {key: value for key, value in gathered.items() if not key.startswith("_")}


def tensor_infos(checkpoint: Checkpoint, *parts: str) -> dict[str, TensorInfo]:
    """Original name -> where the weight lies, of the ``parts`` (prefixes such as ``decoder.``), or of all.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    if checkpoint.layout == "original":
        tensors = read_tensor_infos(checkpoint.folder, "model")
        return {key: tensor for key, tensor in tensors.items() if not parts or key.startswith(parts)}
    found: dict[str, TensorInfo] = {}
    for prefix in parts or _present_parts(checkpoint):
        folder = SUBFOLDERS[prefix]
        for key, tensor in read_tensor_infos(checkpoint.folder / folder, "diffusion_pytorch_model").items():
            if name := original_key(folder, key):
                found[name] = tensor
    return found


def _present_parts(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The prefixes of the parts that must or can be there: diffusers folders may leave out the audio tokenizer."""
    required = ("decoder.", "encoder.")
    if checkpoint.layout == "original":
        return tuple(SUBFOLDERS)
    return tuple(
        prefix for prefix in SUBFOLDERS if prefix in required or (checkpoint.folder / SUBFOLDERS[prefix]).is_dir()
    )


def check_checkpoint(checkpoint: Checkpoint) -> None:
    """Make sure that the DiT folder is whole, reading no more than headers.

    Raises:
        CheckpointError: naming the missing file, the truncated, unknown or missing weight, or the wrong shape.
    """
    present = (*_present_parts(checkpoint), NULL_CONDITION)
    expected = {key: shape for key, shape in expected_shapes(checkpoint.config).items() if key.startswith(present)}
    check_shapes(checkpoint.folder, expected, tensor_infos(checkpoint))
    if checkpoint.layout == "original":
        _require(checkpoint.folder / SILENCE_FILE)


def check_vae_and_text_encoder(checkpoint: Checkpoint) -> None:
    """Make sure that the VAE and the text encoder are there and whole. Raises CheckpointError."""
    for folder, stem in ((checkpoint.vae_folder, "diffusion_pytorch_model"), (checkpoint.text_encoder_folder, "model")):
        _read_config(folder / "config.json")
        read_tensor_infos(folder, stem)
    _require(checkpoint.text_tokenizer_folder / "tokenizer_config.json")


def _require(path: Path) -> None:
    if not path.is_file() or path.stat().st_size == 0:
        raise CheckpointError(f"{path} is missing", hint="Download the model again.")


def encoder_fingerprint(checkpoint: Checkpoint) -> str:
    """16 hex digits that are equal for equal condition encoders: preprocessed tensors fit checkpoints that share it.

    It looks at the beginning of every ``encoder.`` weight, rounded to bfloat16, so that the same model in
    another precision or layout has the same fingerprint. Raises CheckpointError.
    """
    digest = hashlib.sha256()
    tensors = tensor_infos(checkpoint, "encoder.")
    for name in sorted(name for name in tensors if name.startswith("encoder.")):
        digest.update(f"{name} {tensors[name].shape}".encode())
        digest.update(_beginning(tensors[name]).tobytes())
    return digest.hexdigest()[:16]


def _beginning(tensor: TensorInfo) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """The first values of a stored tensor as the bits of bfloat16, rounded to nearest even."""
    if tensor.dtype not in ("F32", "F16", "BF16"):
        raise CheckpointError(f"{tensor.file}: {tensor.name} is stored as {tensor.dtype}, a float type is expected")
    width = 4 if tensor.dtype == "F32" else 2
    with tensor.file.open("rb") as file:
        file.seek(tensor.start)
        data = file.read(min(tensor.end - tensor.start, _SAMPLED * width))
    if tensor.dtype == "BF16":
        return np.frombuffer(data, "<u2")
    values = np.frombuffer(data, "<f4") if width == 4 else np.frombuffer(data, "<f2").astype("<f4")
    bits = values.view("<u4").astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
