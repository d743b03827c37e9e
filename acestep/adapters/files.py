"""Inject adapters, find adapter files, and load them with checks."""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from acestep.adapters.base import Adapter, StoredAdapter
from acestep.adapters.configs import ADAPTERS, AdapterConfig
from acestep.adapters.metadata import AdapterMetadata
from acestep.adapters.other_formats import IMPORT_HINT, is_importable
from acestep.adapters.targets import decoder_family, target_modules, unknown_modules
from acestep.adapters.weights_file import read_tensors, require_finite_values
from acestep.core.errors import AdapterError, ModelMismatch
from acestep.core.untrusted import is_file, is_folder, shorten
from acestep.models.key_mapping import original_to_diffusers

__all__ = [
    "find_adapter",
    "inject",
    "load_adapter",
    "load_weights_into",
    "modules_outside_layers",
    "read_adapter",
    "read_metadata",
]

_EPOCH = re.compile(r"epoch_(\d+)(?:_step_(\d+))?(?:_loss_.*)?")


def adapter_class(kind: str) -> type[Adapter]:
    """The class of the adapter ``kind`` in ``ADAPTERS``. Raises UnknownName."""
    found: type[Adapter] = ADAPTERS[kind].load()
    return found


def inject(
    decoder: nn.Module,
    kind: str,
    config: AdapterConfig,
    attention_type: str,
    train_mlp: bool,
    *,
    seed: int = 42,
    also: Sequence[str] = (),
) -> Adapter:
    """Inject a new trainable adapter into ``decoder``. The output is unchanged until the first optimizer step.

    Its fp32 weights depend only on ``seed``. The base model is frozen. The global random state is unchanged.
    ``also`` are the original names of further modules to adapt.

    Raises:
        AdapterError: a requested module does not exist, or the decoder has an adapter already.
        UnknownName: ``kind`` is not registered.
    """
    modules = target_modules(decoder, attention_type, train_mlp)
    return adapter_class(kind)(decoder, [*modules, *map(original_to_diffusers, also)], config, seed=seed)


def modules_outside_layers(path: Path) -> list[str]:
    """Original names of the modules of an adapter that no setting selects: the embedders and the first convolution.

    LyCORIS adapts them by default, so most LoKr files of other programs have them. Raises AdapterError as
    ``read_adapter``.
    """
    return [name for name in read_adapter(path).modules if not name.startswith("layers.")]


def load_adapter(decoder: nn.Module, path: Path) -> Adapter:
    """Load a trained adapter from disk into ``decoder``, frozen, at strength 1.

    Raises:
        AdapterError: see ``read_adapter``; or the decoder has an adapter already.
        ModelMismatch: the adapter was trained for another model.
    """
    stored = read_adapter(path)
    _require_fit(decoder, stored)
    return adapter_class(stored.kind).from_stored(decoder, stored)


def load_weights_into(adapter: Adapter, path: Path) -> AdapterMetadata:
    """Load the weights of a file into a trainable adapter, to continue training without a saved training state.

    The weights in the file include their scale; they are divided by the scale of ``adapter``, so that the update is
    that of the file. Returns the metadata of the file.

    Raises:
        AdapterError: unreadable, another kind, or other modules or ranks. Nothing is changed then.
        ModelMismatch: the adapter was trained for another model.
    """
    stored = read_adapter(path)
    if stored.kind != adapter.kind:
        raise AdapterError(
            f"{stored.file} is a {ADAPTERS[stored.kind].label}, but this run trains a {ADAPTERS[adapter.kind].label}",
            hint="Choose the same kind of adapter, or start a new run.",
        )
    _require_fit(adapter.network, stored)
    try:
        adapter.load_folded(stored.weights)
    except AdapterError as error:
        trained, here = stored.config.model_dump(), adapter.config.model_dump()
        other = [f"{stored.kind}.{name}={value}" for name, value in trained.items() if value != here[name]]
        hint = f"It was trained with {', '.join(other)}; {error.hint}" if other else error.hint
        raise AdapterError(str(error), hint=hint) from None
    return stored.metadata


def read_metadata(path: Path) -> AdapterMetadata:
    """The metadata of an adapter; ``kind`` and ``config`` are always set.

    Raises:
        AdapterError: see ``read_adapter``.
    """
    return read_adapter(path).metadata


def read_adapter(path: Path) -> StoredAdapter:
    """Read and check an adapter of this program, ace-lora-trainer, the ACE-Step app or Side-Step.

    Raises:
        AdapterError: no adapter found, or it is damaged, has NaN values, an unknown kind or unknown modules.
    """
    file = find_adapter(path)
    tensors, file_metadata = read_tensors(file)
    require_finite_values(file, tensors)
    try:
        return _parse(file, tensors, file_metadata)
    except AdapterError as error:
        if not is_importable(file, tensors):
            raise
        raise AdapterError(str(error), hint=IMPORT_HINT) from None


def _parse(file: Path, tensors: dict[str, Tensor], file_metadata: dict[str, str]) -> StoredAdapter:
    for entry in ADAPTERS:
        if adapter_class(entry.name).matches(list(tensors)):
            stored = adapter_class(entry.name).read(file, tensors, file_metadata)
            stored = dataclasses.replace(stored, dtype=_dtype(tensors))
            break
    else:
        raise AdapterError(f"{file} holds no adapter of a supported kind", hint=f"Supported kinds: {_labels()}.")
    if unknown := unknown_modules(stored.modules):
        raise AdapterError(
            f"{file} adapts {shorten(unknown[0])}, which is not a linear layer or the first convolution of "
            "ACE-Step 1.5",
            hint="Choose an adapter for ACE-Step 1.5.",
        )
    require_finite_values(file, stored.weights)  # scaling may exceed the range of fp32
    return stored


def _weights_files() -> list[str]:
    """Names of weights files, sorted by the number of kinds that share them."""
    names = Counter(name for entry in ADAPTERS for name in entry.files)
    return sorted(names, key=lambda name: names[name])


def find_adapter(path: Path) -> Path:
    """Find the weights file of ``path``: a file, its folder, the parent of ``adapter/``, or a run folder.

    A run folder gives the final adapter, else the best one, else that of the newest checkpoint.

    Raises:
        AdapterError: no weights file found.
    """
    if is_file(path):
        return path
    if not is_folder(path):
        what = "is not a regular file" if os.path.exists(path) else "does not exist"
        raise AdapterError(f"{shorten(path, 300)} {what}", hint="Choose an adapter folder or a .safetensors file.")
    names = _weights_files()
    for folder in (path, path / "final", path / "best", *_checkpoints(path / "checkpoints")):
        for name in names:
            for file in (folder / name, folder / "adapter" / name):
                if is_file(file):
                    return file
    others = sorted(path.glob("*.safetensors"))
    raise AdapterError(
        f"{path} holds no adapter: neither {' nor '.join(names)}",
        hint=f"Choose the file {others[0].name} in it."
        if len(others) == 1
        else "Choose a run or adapter folder; its adapter/, final/, best/ and checkpoints/ are searched too.",
    )


def _checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first: ``epoch_4``, ``epoch_3_step_120``, ``epoch_2_loss_0.5``."""
    found = []
    for each in folder.iterdir() if folder.is_dir() else ():
        if match := _EPOCH.fullmatch(each.name):
            # epoch_3 is saved at the end of epoch 3, so after every epoch_3_step_<n>
            found.append((int(match[1]), match[2] is None, int(match[2] or 0), each))
    return [each for *_, each in sorted(found, reverse=True)]


def _dtype(tensors: dict[str, Tensor]) -> torch.dtype:
    """Dtype of the matrices; the alphas of LoKr are fp32 scalars."""
    return next(tensor.dtype for tensor in tensors.values() if tensor.dim() > 1)


def _require_fit(decoder: nn.Module, stored: StoredAdapter) -> None:
    """Raise ModelMismatch if the adapter does not fit the decoder, before anything is injected."""
    family, layers = decoder_family(decoder), dict(decoder.named_modules())
    hint = "Choose the base model it was trained on."
    if stored.metadata.family not in ("", family):
        raise ModelMismatch(
            f"{stored.file} was trained for {stored.metadata.model_name}, but this model is of the {family} family",
            hint=hint,
            subject="adapter",
        )
    for name, parts in stored.modules.items():
        layer, shape = layers.get(original_to_diffusers(name)), adapter_class(stored.kind).delta_shape(parts)
        if layer is None or shape != _weight_shape(layer):
            found = "no such layer" if layer is None else f"{list(_weight_shape(layer))}"
            raise ModelMismatch(
                f"{stored.file} was trained for {stored.metadata.model_name}, where {name} is {list(shape)}; "
                f"this model is of the {family} family and has {found}",
                hint=hint,
                subject="adapter",
            )


def _weight_shape(layer: nn.Module) -> tuple[int, int]:
    """(out, in) of a linear layer, quantized or not, or of a convolution; ``in`` includes the kernel size."""
    any_layer: Any = layer
    if hasattr(layer, "out_features"):
        return any_layer.out_features, any_layer.in_features
    return any_layer.weight.shape[0], any_layer.weight[0].numel()


def _labels() -> str:
    return ", ".join(entry.label for entry in ADAPTERS)
