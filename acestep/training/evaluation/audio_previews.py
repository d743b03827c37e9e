"""Audio previews during training: a fixed prompt and seed at several adapter strengths.

    samples/epoch_<N>/strength_<S>.wav    the decimal point of S is an underscore; epoch 0 is the base model
                      strength_<S>.json   the generation request

Training is unaffected: random states, module modes and the adapter strength are restored.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from acestep.audio.files import write_audio
from acestep.core.errors import AceStepError, JobCancelled
from acestep.core.events import ItemFailed, LogMessage, PhaseStarted, Saved
from acestep.core.files import write_json
from acestep.core.jobs import Context
from acestep.core.phases import PhaseProgress
from acestep.dataset.prompt import caption_with_tag
from acestep.dataset.sample import TagPosition
from acestep.models.configs import GenerationConfig
from acestep.models.device import empty_cache
from acestep.models.generate import PipelineComponents, generate, load_components
from acestep.training.evaluation.preview_config import PreviewConfig
from acestep.training.session import Session
from acestep.training.state.random_state import RandomState
from acestep.training.state.run_folder import RunFolder

_LEAST_S = 4.0  # shorter previews are of no use, and would hardly save memory


class AudioPreviews:
    """Makes the audio previews of one run."""

    def __init__(self, config: PreviewConfig, session: Session, context: Context) -> None:
        self._config, self._session, self._context = config, session, context
        self._duration_s = config.duration_s  # halved when the device runs out of memory
        self._progress: PhaseProgress | None = None  # of the preview that is generated

    def baseline(self) -> None:
        """Preview the base model, once per run, and make previews that an interruption prevented.

        Raises JobCancelled.
        """
        run, progress = self._session.prepared.run, self._session.progress
        if self._config.enabled and not preview_path(run, 0, 0.0).is_file():
            self._make(0, [0.0])
        if self._is_due and progress.epoch > 0 and progress.samples_done == 0:
            strengths = self._config.strength_values
            self._make(progress.epoch, [s for s in strengths if not preview_path(run, progress.epoch, s).is_file()])

    def after_epoch(self, *, last: bool) -> None:
        """Previews at each strength if they are due, and after the last epoch. Raises JobCancelled."""
        if self._is_due or (last and self._config.enabled):
            self._make(self._session.progress.epoch, self._config.strength_values)

    @property
    def _is_due(self) -> bool:
        every = self._config.every_n_epochs or self._session.prepared.training.save_every_n_epochs
        return self._config.enabled and every > 0 and self._session.progress.epoch % every == 0

    def _make(self, epoch: int, strengths: list[float]) -> None:
        """A preview that fails is reported; training continues."""
        if not strengths:
            return
        session, device = self._session, self._session.prepared.device
        before, parts = RandomState(device), None
        try:
            self._context.emit(PhaseStarted(phase="Loading the models for the audio samples"))
            parts = self._parts()
            for number, strength in enumerate(strengths, 1):
                session.adapter.set_strength(strength)
                what = f"sample {number} of {len(strengths)}" if epoch else "the first sample"
                self._progress = PhaseProgress(self._context.emit, f"Generating {what}")
                self._one(parts, epoch, strength)
        except torch.OutOfMemoryError:
            self._warn(f"No samples for epoch {epoch}: not enough device memory for the VAE and the encoders")
        except JobCancelled:
            raise
        except AceStepError as error:
            self._context.emit(ItemFailed(item=f"samples of epoch {epoch}", message=str(error), hint=error.hint))
        finally:
            session.adapter.set_strength(1.0)
            before.restore()
            parts = None  # release it before emptying the cache
            gc.collect()
            empty_cache(str(device))

    def _parts(self) -> PipelineComponents:
        """The decoder under training, and the other models, loaded only for the previews."""
        prepared = self._session.prepared
        return load_components(
            prepared.checkpoint, device=prepared.device, dtype=prepared.dtype, dit=self._session.adapter.network
        )

    def _one(self, parts: PipelineComponents, epoch: int, strength: float) -> None:
        sound = self._sound(parts)
        while sound is None:
            empty_cache(str(self._session.prepared.device))
            shorter = self._duration_s / 2
            problem = f"Out of memory while generating {self._duration_s:g} s of audio"
            if shorter < _LEAST_S:
                return self._warn(f"{problem}: no sample for epoch {epoch} at strength {strength:g}")
            self._warn(f"{problem}: further samples are {shorter:g} s long")
            self._duration_s = shorter
            sound = self._sound(parts)
        path = preview_path(self._session.prepared.run, epoch, strength)
        write_audio(path, sound)
        facts = {"epoch": epoch, "step": self._session.progress.step, "strength": strength}
        write_json(path.with_suffix(".json"), {**facts, **self._request().model_dump(mode="json")})
        self._context.emit(Saved(path=str(path), role="sample"))
        return None

    def _sound(self, parts: PipelineComponents) -> Tensor | None:
        """[2, S]; None if the device runs out of memory."""
        try:
            return generate(parts, self._request(), on_step=self._on_step)
        except torch.OutOfMemoryError:
            return None

    def _on_step(self, step: int, steps: int) -> None:
        self._context.stop_if_cancelled()
        if self._progress is not None:
            self._progress(step, steps)

    def _request(self) -> GenerationConfig:
        config, (tag, position) = self._config, self._session.prepared.tag
        return GenerationConfig(
            prompt=prompt_with_tag(config.prompt, tag, position),
            lyrics=config.lyrics,
            language=config.language,
            bpm=config.bpm,
            keyscale=config.keyscale,
            timesignature=config.timesignature,
            duration_s=self._duration_s,
            seed=config.seed,
            steps=config.steps or None,
            guidance=config.guidance or None,
            shift=config.shift or None,
        )

    def _warn(self, message: str) -> None:
        self._context.emit(LogMessage(message=message, warning=True))


def preview_path(run: RunFolder, epoch: int, strength: float) -> Path:
    """``strength_1_50.wav`` of an epoch."""
    name = f"strength_{strength:.2f}".replace(".", "_")
    return run.samples / f"epoch_{epoch}" / f"{name}.wav"


def prompt_with_tag(prompt: str, tag: str, position: str) -> str:
    """The prompt with the trigger word placed as in training, unless it already contains it."""
    if not tag or tag.lower() in prompt.lower():
        return prompt
    return caption_with_tag(prompt, tag, position if position in get_args(TagPosition) else "prepend")  # type: ignore[arg-type]
