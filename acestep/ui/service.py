"""The models that this program keeps loaded for generation: one checkpoint at a time, shared by all pages and jobs.

Importing this does not import torch; the first use does.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from acestep.core.errors import CheckpointError

if TYPE_CHECKING:
    from acestep.handler import AceStepHandler


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """The loaded model, its device and dtype, each with the reason for the choice."""

    name: str
    folder: Path
    device: str
    device_reason: str
    precision: str
    precision_reason: str


class Service:
    """Loads, keeps and unloads a handler. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._handler: AceStepHandler | None = None
        self.loaded: LoadedModel | None = None
        self.loading = ""  # name of the model that is being loaded

    @property
    def models_loaded(self) -> bool:
        return self.loaded is not None

    @property
    def llm_loaded(self) -> bool:
        """Whether the 5Hz language model is loaded; this program does not use it yet."""
        return False

    def initialize(self, checkpoint: Path) -> AceStepHandler:
        """The handler of that checkpoint with its models loaded; another one is unloaded first.

        Raises:
            CheckpointError: the checkpoint is incomplete.
        """
        with self._lock:
            if self._handler is not None and self.loaded and self.loaded.folder == checkpoint:
                return self._handler
            self.unload()
            self.loading = checkpoint.name
            try:
                return self._load(checkpoint)
            finally:
                self.loading = ""

    def unload(self) -> None:
        """Unload the models. Does nothing when none are loaded."""
        with self._lock:
            handler, self._handler, self.loaded = self._handler, None, None
            if handler is not None:
                handler.unload()

    def _load(self, checkpoint: Path) -> AceStepHandler:
        from acestep.handler import AceStepHandler
        from acestep.models.checkpoint import check_checkpoint, check_vae_and_text_encoder

        handler = AceStepHandler(checkpoint)
        check_checkpoint(handler.checkpoint)
        check_vae_and_text_encoder(handler.checkpoint)
        handler.ensure_models_loaded()
        self._handler = handler
        self.loaded = LoadedModel(
            name=handler.checkpoint.name,
            folder=checkpoint,
            device=handler.device.value,
            device_reason=handler.device.reason,
            precision=str(handler.dtype.value).removeprefix("torch."),
            precision_reason=handler.dtype.reason,
        )
        return handler


SERVICE = Service()


def require_checkpoint(folder: str) -> Path:
    """The selected checkpoint. Raises CheckpointError when there is none."""
    if not folder:
        raise CheckpointError("no model is selected", hint="Select one in 1. Service.")
    return Path(folder)
