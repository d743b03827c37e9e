"""The models this program holds in memory: loaded when first needed, one adapter at a time."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loguru import logger
from torch import Tensor

from acestep.adapters.base import Adapter
from acestep.adapters.files import load_adapter
from acestep.core.errors import AdapterError
from acestep.models.checkpoint import Checkpoint, find_checkpoint
from acestep.models.configs import GenerationConfig
from acestep.models.device import choose_device, choose_dtype, empty_cache
from acestep.models.generate import PipelineComponents, generate, load_components


class AceStepHandler:
    """Generates with one checkpoint and, if wanted, one adapter at any strength. Safe to use from several threads."""

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        custom_root: Path | None = None,
        device: str = "auto",
        dtype: str = "auto",
    ) -> None:
        """Finds the checkpoint; nothing is loaded yet. Raises CheckpointError."""
        self.checkpoint: Checkpoint = find_checkpoint(checkpoint, custom_root)
        self.device = choose_device(device)
        self.dtype = choose_dtype(self.device.value, dtype)
        self._guard = threading.RLock()
        self._parts: PipelineComponents | None = None
        self._adapter: Adapter | None = None
        self._adapter_path: Path | None = None
        self._strength = 1.0

    @property
    def models_loaded(self) -> bool:
        return self._parts is not None

    def ensure_models_loaded(self) -> PipelineComponents:
        """The parts of the checkpoint, loaded by the first call. Raises CheckpointError."""
        with self._guard:
            if self._parts is None:
                logger.info("loading {} on {}", self.checkpoint.name, self.device.value)
                self._parts = load_components(self.checkpoint, device=self.device.value, dtype=self.dtype.value)
            return self._parts

    def load_adapter(self, path: Path, *, strength: float = 1.0) -> None:
        """Apply an adapter folder or file in place of the present one. Raises AdapterError, ModelMismatch."""
        with self._guard:
            parts = self.ensure_models_loaded()
            self.unload_adapter()
            self._adapter = load_adapter(parts.dit, path)
            self._adapter_path = path
            self.set_strength(strength)

    def set_strength(self, strength: float) -> None:
        """0 is the model alone, 1 the adapter as trained, more exaggerates. Raises AdapterError without an adapter."""
        with self._guard:
            if self._adapter is None:
                raise AdapterError("no adapter is loaded", hint="Load one first.")
            self._adapter.set_strength(strength)
            self._strength = strength

    def unload_adapter(self) -> None:
        """Give the model back as it was, bit for bit. Harmless without an adapter."""
        with self._guard:
            if self._adapter is not None:
                self._adapter.remove()
            self._adapter, self._adapter_path, self._strength = None, None, 1.0

    def adapter_status(self) -> dict[str, Any]:
        """``loaded``, ``path`` and ``strength`` of the adapter in use."""
        return {
            "loaded": self._adapter is not None,
            "path": str(self._adapter_path) if self._adapter_path else None,
            "strength": self._strength,
        }

    def generate(
        self,
        request: GenerationConfig,
        *,
        on_step: Callable[[int, int], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Tensor:
        """[2, S] float32 at 48 kHz. Raises CheckpointError, JobCancelled."""
        with self._guard:
            return generate(self.ensure_models_loaded(), request, on_step=on_step, should_stop=should_stop)

    def unload(self) -> None:
        """Free the memory of all models."""
        with self._guard:
            self.unload_adapter()
            self._parts = None
            gc.collect()
            empty_cache(self.device.value)
