"""Writes checkpoints and checks whether a run can resume from one.

A checkpoint holds the adapter for other programs and, beside it, the whole training state. It is written to a
temporary folder and moved into place, so a kill at any moment leaves either the previous checkpoint or the new one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from acestep.adapters.base import Adapter
from acestep.adapters.metadata import AdapterMetadata
from acestep.core.errors import TrainingError
from acestep.core.files import replace_folder, require_space
from acestep.core.untrusted import shorten
from acestep.training.state.ema import ExponentialMovingAverage
from acestep.training.state.run_folder import ADAPTER, EMA_ADAPTER, STATE, ResumeSource, RunFolder
from acestep.training.state.tensor_tree import damaged_state, read_values, write_state

_SLACK = 2**20  # bytes of headers and JSON beside the tensors
_FILE_BYTES = 2  # a value in an adapter file is bf16
_STATE_BYTES = 3 * 4  # fp32; two values per parameter are typical of optimizers


class CheckpointWriter:
    """Writes the checkpoints, the best and the final adapter of a run."""

    def __init__(
        self,
        run: RunFolder,
        adapter: Adapter,
        *,
        metadata: Callable[[], AdapterMetadata],
        state: Callable[[], dict[str, Any]],
        ema: ExponentialMovingAverage | None = None,
        writes: bool = True,
    ) -> None:
        """``metadata`` and ``state`` are called at each save. Without ``writes`` only paths are given."""
        self.run, self._writes = run, writes
        self._adapter, self._metadata, self._state, self._ema = adapter, metadata, state, ema

    def require_space(self, saves: int) -> None:
        """Raises DiskFull if the next ``saves`` checkpoints would not fit."""
        num_values = sum(parameter.numel() for parameter in self._adapter.parameters())
        usual = usual_bytes(num_values, ema=self._ema is not None)
        needed = usual + max(0, _num_bytes(self._state()) - _STATE_BYTES * num_values)
        require_space(self.run.root, saves * needed)

    def checkpoint(self, name: str) -> Path:
        """Save adapter and training state as ``checkpoints/<name>``. Raises DiskFull, NotWritable, StorageError."""
        target = self.run.checkpoints / name
        if not self._writes:
            return target
        self.require_space(1)
        with replace_folder(target) as folder:
            (folder / STATE).mkdir()
            write_state(folder / STATE, self._state())
            self._save_adapter(folder)
        self.run.mark_latest(target)
        return target

    def best(self) -> Path:
        """Save the adapter alone, without the state, as ``best/``."""
        return self._adapter_alone(self.run.best)

    def final(self, *, best_known: bool) -> Path:
        """Write ``final/``: the best adapter if there is one, otherwise the current one."""
        if not (self._writes and best_known and (self.run.best / ADAPTER).is_dir()):
            return self._adapter_alone(self.run.final)
        with replace_folder(self.run.final) as folder:
            for found in (self.run.best / ADAPTER, self.run.best / EMA_ADAPTER):
                if found.is_dir():
                    shutil.copytree(found, folder / found.name)
        return self.run.final

    def _adapter_alone(self, target: Path) -> Path:
        if self._writes:
            with replace_folder(target) as folder:
                self._save_adapter(folder)
        return target

    def _save_adapter(self, folder: Path) -> None:
        """Save the current adapter, and its EMA if there is one."""
        (folder / ADAPTER).mkdir()
        self._adapter.save(folder / ADAPTER, self._metadata())
        if self._ema is not None:
            (folder / EMA_ADAPTER).mkdir()
            with self._ema.applied():
                self._adapter.save(folder / EMA_ADAPTER, self._metadata())


def usual_bytes(num_values: int, *, ema: bool) -> int:
    """The size of a checkpoint of an adapter with ``num_values`` parameters, as far as it is known before a run."""
    return (_STATE_BYTES + (2 if ema else 1) * _FILE_BYTES) * num_values + _SLACK


def require_resumable(source: ResumeSource, fixed: Mapping[str, Any]) -> None:
    """Check that a run with these fixed settings can resume from ``source``, which has a training state.

    Raises:
        TrainingError: the state is damaged, or was saved with other settings; the message names them.
    """
    before = recorded_settings(source)
    changed = [
        f"{name} is {fixed[name]} now and was {shorten(value)}"
        for name, value in before.items()
        if name in fixed and fixed[name] != value
    ]
    if changed:
        raise TrainingError(
            f"the run cannot resume from {source.folder} with other settings: {'; '.join(changed)}",
            hint="Restore these settings, or start a new run in another folder.",
        )


def recorded_settings(source: ResumeSource) -> dict[str, Any]:
    """What a resumed run must have in common with ``source``, which has a training state. Raises TrainingError."""
    with damaged_state(source.folder / STATE):
        return dict(read_values(source.folder / STATE)["fixed"])


def _num_bytes(state: Any) -> int:
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        return sum(map(_num_bytes, state.values()))
    return sum(map(_num_bytes, state)) if isinstance(state, list | tuple) else 0
