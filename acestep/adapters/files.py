"""The door to adapters: put one in, find one on disk, read it, check that it fits."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from acestep.adapters.base import Adapter, StoredAdapter
from acestep.adapters.configs import ADAPTERS, AdapterConfig
from acestep.adapters.metadata import AdapterMetadata
from acestep.adapters.targets import decoder_family, target_modules, unknown_modules
from acestep.core.errors import AdapterError, ModelMismatch
from acestep.models.key_mapping import original_to_diffusers

__all__ = ["find_adapter", "inject", "load_adapter", "load_weights_into", "read_adapter", "read_metadata"]

_EPOCH = re.compile(r"epoch_(\d+)(?:_step_(\d+))?(?:_loss_.*)?")


def adapter_class(kind: str) -> type[Adapter]:
    """The class behind a name in ``ADAPTERS``. Raises UnknownName."""
    found: type[Adapter] = ADAPTERS[kind].load()
    return found


def inject(
    decoder: nn.Module, kind: str, config: AdapterConfig, attention_type: str, train_mlp: bool, *, seed: int = 42
) -> Adapter:
    """A fresh trainable adapter in ``decoder``, which answers as before until a step is taken.

    Its weights are fp32 and depend on ``seed`` alone; everything else is frozen; the global generator is left
    as it was.

    Raises:
        AdapterError: the modules asked for are not there, or an adapter sits in the decoder already.
        UnknownName: no such ``kind``.
    """
    return adapter_class(kind)(decoder, target_modules(decoder, attention_type, train_mlp), config, seed=seed)


def load_adapter(decoder: nn.Module, path: Path) -> Adapter:
    """A finished adapter from disk in ``decoder``, frozen, at strength 1.

    Raises:
        AdapterError: nothing readable there (``read_adapter``), or an adapter sits in the decoder already.
        ModelMismatch: it was made for another model.
    """
    stored = read_adapter(path)
    _require_fit(decoder, stored)
    return adapter_class(stored.kind).from_stored(decoder, stored)


def load_weights_into(adapter: Adapter, path: Path) -> AdapterMetadata:
    """Give a fresh trainable adapter the weights of a file, to continue training without a training state.

    The file holds the scale in its weights; it is taken out again by the adapter's own alpha, so that the adapter
    adds what the file adds. Returns the metadata, with the settings of its training.

    Raises:
        AdapterError: unreadable, of another kind, or for other modules or ranks; then nothing changed.
        ModelMismatch: it was made for another model.
    """
    stored = read_adapter(path)
    if stored.kind != adapter.kind:
        raise AdapterError(
            f"{stored.file} is a {ADAPTERS[stored.kind].label}, this run trains a {ADAPTERS[adapter.kind].label}",
            hint="Choose the same kind of adapter, or start a new run.",
        )
    _require_fit(adapter.network, stored)
    adapter.load_folded(stored.weights)
    return stored.metadata


def read_metadata(path: Path) -> AdapterMetadata:
    """What an adapter tells about itself; the settings it was trained with in ``kind`` and ``config``.

    Raises:
        AdapterError: as ``read_adapter``.
    """
    return read_adapter(path).metadata


def read_adapter(path: Path) -> StoredAdapter:
    """An adapter of ours, the existing trainer, the ACE-Step app or Side-Step, whole and checked.

    Raises:
        AdapterError: no adapter there, damaged, NaN inside, of an unknown kind, or for an unknown module.
    """
    file = find_adapter(path)
    tensors, file_metadata = _open(file)
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise AdapterError(f"{file} holds NaN or infinite values in {key}", hint="Use an earlier checkpoint.")
    for entry in ADAPTERS:
        if adapter_class(entry.name).matches(list(tensors)):
            stored = adapter_class(entry.name).read(file, tensors, file_metadata)
            stored = dataclasses.replace(stored, dtype=_dtype(tensors))
            break
    else:
        raise AdapterError(f"{file} holds no adapter of a kind that can be read", hint=f"Known: {_labels()}.")
    if unknown := unknown_modules(stored.modules):
        raise AdapterError(
            f"{file} is for modules that ACE-Step 1.5 does not have, such as {unknown[0]}",
            hint="It belongs to another model.",
        )
    return stored


def _weights_files() -> list[str]:
    """Names of weights files, those that fewer kinds share first."""
    names = Counter(name for entry in ADAPTERS for name in entry.files)
    return sorted(names, key=lambda name: names[name])


def find_adapter(path: Path) -> Path:
    """The weights file meant by ``path``: the file, its folder, the parent of ``adapter/``, or a run folder.

    Of a run it is the final adapter, else the best, else the newest checkpoint.

    Raises:
        AdapterError: naming what was looked for.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise AdapterError(f"{path} does not exist", hint="Give an adapter folder or a .safetensors file.")
    names = _weights_files()
    for folder in (path, path / "final", path / "best", *_checkpoints(path / "checkpoints")):
        for name in names:
            for file in (folder / name, folder / "adapter" / name):
                if file.is_file():
                    return file
    raise AdapterError(
        f"{path} holds no adapter: neither {' nor '.join(names)}",
        hint="Choose the folder that training wrote; adapter/, final/, best/ and checkpoints/ in it are searched too.",
    )


def _checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first: ``epoch_4``, ``epoch_3_step_120``, ``epoch_2_loss_0.5``."""
    found = []
    for each in folder.iterdir() if folder.is_dir() else ():
        if match := _EPOCH.fullmatch(each.name):
            # epoch_3 was saved when epoch 3 was complete, so after every epoch_3_step_<n>
            found.append((int(match[1]), match[2] is None, int(match[2] or 0), each))
    return [each for *_, each in sorted(found, reverse=True)]


def _open(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(file, framework="pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, json.JSONDecodeError) as problem:
        raise AdapterError(f"{file} cannot be read as safetensors: {problem}", hint="Get the file again.") from None


def _dtype(tensors: dict[str, Tensor]) -> torch.dtype:
    """Of the matrices; LoKr's alphas are single numbers in fp32."""
    return next(tensor.dtype for tensor in tensors.values() if tensor.dim() > 1)


def _require_fit(decoder: nn.Module, stored: StoredAdapter) -> None:
    """Raises ModelMismatch, naming both models, before anything is put into the decoder."""
    family, layers = decoder_family(decoder), dict(decoder.named_modules())
    hint = "Choose the model it was trained on."
    if stored.metadata.family not in ("", family):
        raise ModelMismatch(
            f"{stored.file} was made for {stored.metadata.model_name}, this model is of the {family} family", hint=hint
        )
    for name, parts in stored.modules.items():
        layer, shape = layers.get(original_to_diffusers(name)), adapter_class(stored.kind).delta_shape(parts)
        if layer is None or shape != _weight_shape(layer):
            there = "no such layer" if layer is None else f"{list(_weight_shape(layer))}"
            raise ModelMismatch(
                f"{stored.file} was made for {stored.metadata.model_name}: {name} is {list(shape)} there; "
                f"this model is of the {family} family and has {there}",
                hint=hint,
            )


def _weight_shape(layer: nn.Module) -> tuple[int, int]:
    """(out, in) of a linear layer, quantized ones included, or of a convolution, whose kernel counts into ``in``."""
    any_layer: Any = layer
    if hasattr(layer, "out_features"):
        return any_layer.out_features, any_layer.in_features
    return any_layer.weight.shape[0], any_layer.weight[0].numel()


def _labels() -> str:
    return ", ".join(entry.label for entry in ADAPTERS)
