"""Merge an adapter into its base model, one tensor at a time: a 2B model takes a few hundred MB of memory."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acestep.adapters.files import read_adapter
from acestep.core.errors import AdapterError, StorageError
from acestep.core.events import LogMessage, PhaseStarted, Progressed, Saved, Started
from acestep.core.files import replace_folder, require_space, write_json
from acestep.core.jobs import Context
from acestep.exporting.configs import MergeJob
from acestep.exporting.delta import BaseWeights, delta
from acestep.exporting.marker import require_replaceable, write_marker
from acestep.exporting.merged_layout import FileTensor, MergedFiles, diffusers_layout, same_layout
from acestep.exporting.safetensors_stream import TensorWriter
from acestep.exporting.source import ExportSource
from acestep.models.checkpoint import (
    COMPONENTS_KEY,
    MERGE_FILE,
    MERGED_MODEL,
    Checkpoint,
    check_checkpoint,
    find_checkpoint,
)
from acestep.models.safetensors_data import dtype_of, read_tensor

MARKER = MERGE_FILE
"""Marker file of a merged model: base model, adapter, strength, and the files that were written."""

_REPORT_EVERY = 8  # tensors
_ROUNDING_WARNING = 0.1  # relative rounding error above which a warning is logged


def merge_job(config: MergeJob, context: Context) -> dict[str, Any]:
    """Merge the adapter into the weights of ``config.checkpoint`` on the CPU and write the model to ``config.out``.

    Returns:
        ``checkpoint`` (the new folder), ``merged`` (number of changed weights), ``bytes``, ``rounding`` (relative error
        of the weight deltas from rounding to the dtype of the base model).

    Raises:
        CheckpointError, AdapterError: the base model or the adapter cannot be read.
        ModelMismatch: the adapter was trained on another model.
        StorageError: ``config.out`` contains other files, or there is not enough disk space.
        JobCancelled: the job was cancelled. An existing folder stays unchanged.
    """
    checkpoint = find_checkpoint(config.checkpoint, config.root)
    check_checkpoint(checkpoint)
    adapter = read_adapter(config.adapter)
    base = BaseWeights(checkpoint)
    base.check_compatible(adapter)
    if config.out.resolve() == checkpoint.folder.resolve():
        raise StorageError(f"{config.out} is the base model itself", hint="Choose a new folder.")
    require_replaceable(config.out, MARKER, MERGED_MODEL)
    source = ExportSource(adapter, base, strength=config.strength)
    plan = diffusers_layout(checkpoint) if _changes_layout(config, checkpoint) else same_layout(checkpoint)
    require_space(config.out, plan.num_bytes)
    context.emit(PhaseStarted(phase=f"Merging {adapter.file} into {len(source.modules)} weights of {checkpoint.name}"))
    with replace_folder(config.out) as fresh:
        rounding = _Merger(source, context).write(plan, fresh)
        facts = {"base": checkpoint.name, "adapter": str(adapter.file), "strength": config.strength}
        facts |= _components(checkpoint)
        write_marker(fresh, MARKER, MERGED_MODEL, {**facts, "card": adapter.metadata.to_file_metadata()})
        check_checkpoint(find_checkpoint(fresh))
    context.emit(Saved(path=str(config.out), role="model"))
    _warn(config.out, rounding, context)
    return {
        "checkpoint": str(config.out),
        "merged": len(source.modules),
        "bytes": plan.num_bytes,
        "rounding": rounding,
    }


def _changes_layout(config: MergeJob, checkpoint: Checkpoint) -> bool:
    return config.layout == "diffusers" and checkpoint.layout == "original"


def _components(checkpoint: Checkpoint) -> dict[str, str]:
    """Where a merged model in the original layout finds its VAE and text encoder, wherever its folder is."""
    root = checkpoint.components_root
    if checkpoint.layout == "diffusers" or not (root / "vae" / "config.json").is_file():
        return {}
    return {COMPONENTS_KEY: str(root.resolve())}


class _Merger:
    """Writes the files of a merged model and adds the weight deltas."""

    def __init__(self, source: ExportSource, context: Context) -> None:
        self._source = source
        self._context = context
        self._changed = {f"decoder.{module}.weight": module for module in source.modules}
        self._squared_error = self._squared_norm = 0.0
        self._done = 0

    def write(self, plan: MergedFiles, folder: Path) -> float:
        """Write all files of ``plan``. Returns |written - exact| / |delta| over all changed weights."""
        total = sum(map(len, plan.weights.values()))
        self._context.emit(Started(job="merge", total=total, unit="weights"))
        for path, tensors in plan.weights.items():
            self._stream(folder / path, tensors, total)
        for path, origin in plan.copies.items():
            self._context.stop_if_cancelled()
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(origin, folder / path)
        for path, content in plan.texts.items():
            write_json(folder / path, content)
        return math.sqrt(self._squared_error / self._squared_norm) if self._squared_norm else 0.0

    def _stream(self, file: Path, tensors: list[FileTensor], total: int) -> None:
        by_name = {tensor.name: tensor for tensor in tensors}
        with TensorWriter(file, {name: _dtype_and_shape(tensor) for name, tensor in by_name.items()}) as writer:
            for name in writer.names:
                self._context.stop_if_cancelled()
                values = by_name[name].values
                if isinstance(values, Tensor):
                    writer.write(name, values)
                elif module := self._changed.get(by_name[name].original):
                    writer.write(name, self._merged(module, read_tensor(values)))
                else:
                    writer.copy(name, values)
                self._done += 1
                if self._done % _REPORT_EVERY == 0 or self._done == total:
                    self._context.emit(Progressed(done=self._done, total=total, note=by_name[name].original))

    def _merged(self, module: str, weight: Tensor) -> Tensor:
        """``weight`` plus the weight delta, in the dtype of ``weight``. Raises AdapterError for NaN."""
        exact = weight.float()
        added = delta(self._source.modules[module], exact, self._source.strength)
        self._squared_norm += float(added.norm()) ** 2
        exact += added.reshape(exact.shape)
        del added  # the largest weights take 50 MB each
        merged = exact.to(weight.dtype)
        self._squared_error += float((merged - exact).norm()) ** 2
        if not math.isfinite(self._squared_error):
            raise AdapterError(f"{module} would contain NaN or infinite values", hint="Use a smaller strength.")
        return merged


def _dtype_and_shape(tensor: FileTensor) -> tuple[torch.dtype, tuple[int, ...]]:
    values = tensor.values
    return (values.dtype, tuple(values.shape)) if isinstance(values, Tensor) else (dtype_of(values), values.shape)


def _warn(out: Path, rounding: float, context: Context) -> None:
    if rounding > _ROUNDING_WARNING:
        message = (
            f"rounding to the dtype of the base model loses {rounding:.0%} of this adapter; loading the adapter "
            "separately is exact"
        )
        context.emit(LogMessage(message=message, warning=True))
    merged = find_checkpoint(out)
    if not (merged.vae_folder / "config.json").is_file():
        hint = (
            f"The base model has no VAE and text encoder. To generate with the merged model, put the folders vae and "
            f"{merged.text_encoder_folder.name} into {merged.components_root}"
        )
        context.emit(LogMessage(message=hint, warning=True))
