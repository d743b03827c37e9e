"""Audio previews during training: a fixed prompt and seed at several adapter strengths.

    samples/epoch_<N>/strength_<S>.wav    the decimal point of S is an underscore; epoch 0 is the base model
                      strength_<S>.json   the generation request

Training is unaffected: random states, module modes and the adapter strength are restored. Only one model at a time is
beside the decoder in device memory: the text encoder, then the condition encoder, once per run, and the VAE, which
decodes in tiles, when the latents of all strengths exist.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from acestep.audio.files import write_audio
from acestep.core.errors import AceStepError, GenerationError, JobCancelled
from acestep.core.events import ItemFailed, LogMessage, PhaseStarted, Saved
from acestep.core.files import write_json
from acestep.core.jobs import Context
from acestep.core.phases import PhaseProgress
from acestep.dataset.prompt import caption_with_tag
from acestep.dataset.sample import TagPosition
from acestep.models.configs import GenerationConfig
from acestep.models.device import empty_cache
from acestep.models.generate import denoise, postprocess_audio
from acestep.models.prompt_condition import PromptCondition, load_and_encode
from acestep.models.vae import decode_latents, load_vae_beside
from acestep.training.evaluation.preview_config import PreviewConfig
from acestep.training.session import Session
from acestep.training.state.random_state import RandomState
from acestep.training.state.run_folder import RunFolder

_LEAST_S = 4.0  # shorter previews are of no use, and would hardly save memory


@dataclass(frozen=True, slots=True)
class _Preview:
    """A preview before decoding: latents [T, C] on the CPU."""

    strength: float
    request: GenerationConfig
    latents: Tensor


class AudioPreviews:
    """Makes the audio previews of one run."""

    def __init__(self, config: PreviewConfig, session: Session, context: Context) -> None:
        self._config, self._session, self._context = config, session, context
        self._duration_s = config.duration_s  # halved when the device runs out of memory
        self._condition: tuple[GenerationConfig, PromptCondition] | None = None  # encoded once per run
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
        before = RandomState(device)
        try:
            self._write(epoch, list(self._generated(epoch, strengths)))
        except torch.OutOfMemoryError:
            self._warn(f"No samples for epoch {epoch}: not enough device memory for the encoders or the VAE")
        except JobCancelled:
            raise
        except AceStepError as error:
            self._failed(f"samples of epoch {epoch}", error)
        finally:
            session.adapter.set_strength(1.0)
            before.restore()
            gc.collect()
            empty_cache(str(device))

    def _generated(self, epoch: int, strengths: list[float]) -> Iterator[_Preview]:
        """The latents of each strength with which the generation succeeds."""
        for number, strength in enumerate(strengths, 1):
            self._session.adapter.set_strength(strength)
            what = f"sample {number} of {len(strengths)}" if epoch else "the first sample"
            try:
                latents = self._fitting_latents(what, f"epoch {epoch} at strength {strength:g}")
            except GenerationError as error:
                self._failed(f"sample of epoch {epoch} at strength {strength:g}", error)
                continue
            if latents is not None:
                yield _Preview(strength, self._request(), latents.cpu())

    def _fitting_latents(self, what: str, where: str) -> Tensor | None:
        """The latents, shorter if the device runs out of memory; None if it always does."""
        latents = self._latents(what)
        while latents is None:
            empty_cache(str(self._session.prepared.device))
            shorter = self._duration_s / 2
            problem = f"Out of memory while generating {self._duration_s:g} s of audio"
            if shorter < _LEAST_S:
                self._warn(f"{problem}: no sample for {where}")
                return None
            self._warn(f"{problem}: further samples are {shorter:g} s long")
            self._duration_s = shorter
            latents = self._latents(what)
        return latents

    def _latents(self, what: str) -> Tensor | None:
        """[T, C]; None if the device runs out of memory."""
        prepared, request = self._session.prepared, self._request()
        condition = self._encoded(request)
        self._progress = PhaseProgress(self._context.emit, f"Generating {what}")
        try:
            return denoise(
                prepared.checkpoint, self._session.adapter.network, condition, request, on_step=self._on_step
            )
        except torch.OutOfMemoryError:
            return None

    def _encoded(self, request: GenerationConfig) -> PromptCondition:
        """The condition of the request. The encoders are loaded for the first preview, and when the length changes."""
        prepared = self._session.prepared
        if self._condition is None or self._condition[0] != request:
            self._context.emit(PhaseStarted(phase="Encoding the prompt of the audio samples"))
            encoded = load_and_encode(prepared.checkpoint, request, device=prepared.device, dtype=prepared.dtype)
            self._condition = request, encoded
        return self._condition[1]

    def _write(self, epoch: int, previews: list[_Preview]) -> None:
        """Decode the previews with a VAE that is loaded meanwhile, and write them."""
        if not previews:
            return
        prepared = self._session.prepared
        self._context.emit(PhaseStarted(phase="Decoding the audio samples"))
        empty_cache(str(prepared.device))
        vae = load_vae_beside(prepared.checkpoint, device=prepared.device, dtype=prepared.dtype)
        for preview in previews:
            self._context.stop_if_cancelled()
            try:
                audio = postprocess_audio(decode_latents(vae, preview.latents))
            except GenerationError as error:
                self._failed(f"sample of epoch {epoch} at strength {preview.strength:g}", error)
                continue
            path = preview_path(prepared.run, epoch, preview.strength)
            write_audio(path, audio)
            facts = {"epoch": epoch, "step": self._session.progress.step, "strength": preview.strength}
            write_json(path.with_suffix(".json"), {**facts, **preview.request.model_dump(mode="json")})
            self._context.emit(Saved(path=str(path), role="sample"))

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

    def _failed(self, item: str, error: AceStepError) -> None:
        self._context.emit(ItemFailed(item=item, message=str(error), hint=error.hint))

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
