"""The models that this program keeps loaded for generation: one checkpoint at a time, shared by all pages and jobs.

Importing this does not import torch; the first use does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from acestep.core.errors import AceStepError, CheckpointError
from acestep.core.events import approximate_time

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
        self.problem = ""  # why the last model could not be loaded
        self._began_s = 0.0
        self._read, self._total = 0, 0  # bytes

    @property
    def models_loaded(self) -> bool:
        return self.loaded is not None

    @property
    def llm_loaded(self) -> bool:
        """Whether the 5Hz language model is loaded; this program does not use it yet."""
        return False

    @property
    def loading_status(self) -> str:
        """The model that is being loaded, how much of it, the elapsed time and the estimate; "" if none is."""
        if not self.loading:
            return ""
        elapsed = time.monotonic() - self._began_s
        words = [f"Loading {self.loading}", f"{approximate_time(elapsed)} elapsed"]
        if self._total:
            words.insert(1, f"{100 * self._read // self._total} %")
        if self._read and elapsed > 1:
            words.append(f"about {approximate_time(elapsed * (self._total - self._read) / self._read)} left")
        return ", ".join(words)

    @property
    def loaded_bytes(self) -> tuple[int, int]:
        """How much of the model is loaded, and its size."""
        return self._read, self._total

    def initialize(
        self, checkpoint: Path, report: Callable[[int, int], None] = lambda done, total: None
    ) -> AceStepHandler:
        """The handler of that checkpoint with its models loaded; another one is unloaded first.

        Args:
            report: called with the number of bytes that are loaded and their total.

        Raises:
            CheckpointError: the checkpoint is incomplete.
        """
        with self._lock:
            if self._handler is not None and self.loaded and self.loaded.folder == checkpoint:
                return self._handler
            self.unload()
            self._began_s, self._read, self._total, self.problem = time.monotonic(), 0, 0, ""
            self.loading = checkpoint.name
            try:
                return self._load(checkpoint, report)
            except AceStepError as error:
                self.problem = f"{error} {error.hint}".strip()
                raise
            finally:
                if self._handler is None and not self.problem:
                    self.problem = "The terminal window of this program shows the details."
                self.loading = ""

    def unload(self) -> None:
        """Unload the models. Does nothing when none are loaded."""
        with self._lock:
            handler, self._handler, self.loaded, self.problem = self._handler, None, None, ""
            if handler is not None:
                handler.unload()

    def _load(self, checkpoint: Path, report: Callable[[int, int], None]) -> AceStepHandler:
        from acestep.handler import AceStepHandler
        from acestep.models.checkpoint import check_checkpoint, check_vae_and_text_encoder
        from acestep.models.load_progress import pipeline_bytes, report_reading

        handler = AceStepHandler(checkpoint)
        check_checkpoint(handler.checkpoint)
        check_vae_and_text_encoder(handler.checkpoint)

        def on_read(done: int, total: int) -> None:
            self._read, self._total = done, total
            report(done, total)

        with report_reading(pipeline_bytes(handler.checkpoint), on_read):
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
