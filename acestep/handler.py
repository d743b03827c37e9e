"""Lazily loaded models for generation, with one adapter at a time."""

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
from acestep.models.memory_limit import limit_memory


class AceStepHandler:
    """Generate audio with one checkpoint and an optional adapter. Thread-safe: calls are serialized.

    Args:
        checkpoint: name or path of the checkpoint.
        custom_root: a checkpoint root to search before the default ones.
        device: ``auto`` or a torch device such as ``cuda:0``.
        dtype: ``auto``, ``bf16``, ``fp16`` or ``fp32``.

    Raises:
        CheckpointError: the checkpoint does not exist or its config is invalid.
        ConfigError: the device or dtype is unknown or not available.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        custom_root: Path | None = None,
        device: str = "auto",
        dtype: str = "auto",
    ) -> None:
        self.checkpoint: Checkpoint = find_checkpoint(checkpoint, custom_root)
        self.device = choose_device(device)
        self.dtype = choose_dtype(self.device.value, dtype)
        self._lock = threading.RLock()
        self._components: PipelineComponents | None = None
        self._adapter: Adapter | None = None
        self._adapter_path: Path | None = None
        self._strength = 1.0

    @property
    def models_loaded(self) -> bool:
        """Whether the models are in memory."""
        return self._components is not None

    def ensure_models_loaded(self) -> PipelineComponents:
        """Return the models, loading them on the first call. Raises CheckpointError."""
        with self._lock:
            if self._components is None:
                logger.info("loading {} to {}", self.checkpoint.name, self.device.value)
                limit_memory(self.device.value, logger.info)
                self._components = load_components(self.checkpoint, device=self.device.value, dtype=self.dtype.value)
            return self._components

    def load_adapter(self, path: Path, *, strength: float = 1.0) -> None:
        """Load an adapter from a folder or file, replacing the current one. Raises AdapterError, ModelMismatch."""
        with self._lock:
            components = self.ensure_models_loaded()
            self.unload_adapter()
            self._adapter = load_adapter(components.dit, path)
            self._adapter_path = path
            self.set_strength(strength)

    def set_strength(self, strength: float) -> None:
        """Scale the adapter: 0 disables it, 1 is its trained strength. Raises AdapterError without an adapter."""
        with self._lock:
            if self._adapter is None:
                raise AdapterError("no adapter is loaded", hint="Load an adapter first.")
            self._adapter.set_strength(strength)
            self._strength = strength

    def unload_adapter(self) -> None:
        """Remove the adapter and restore the base model bit-exactly. Does nothing without an adapter."""
        with self._lock:
            if self._adapter is not None:
                self._adapter.remove()
            self._adapter, self._adapter_path, self._strength = None, None, 1.0

    def adapter_status(self) -> dict[str, Any]:
        """Return ``loaded``, ``path`` and ``strength`` of the current adapter."""
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
        """Generate audio: [2, S] float32 at 48 kHz. Raises CheckpointError, JobCancelled.

        Args:
            on_step: called after each denoising step with the number of finished steps and the total.
            should_stop: called after each denoising step; True cancels the generation.
        """
        with self._lock:
            return generate(self.ensure_models_loaded(), request, on_step=on_step, should_stop=should_stop)

    def unload(self) -> None:
        """Unload all models and free their memory."""
        with self._lock:
            self.unload_adapter()
            self._components = None
            gc.collect()
            empty_cache(self.device.value)
