"""Text to music: the parts of a checkpoint, and the way from a request to sound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from acestep.core.errors import JobCancelled
from acestep.models import load
from acestep.models.checkpoint import Checkpoint
from acestep.models.configs import GenerationConfig
from acestep.models.text import TextEncoder, normalize_lyrics
from acestep.models.vae import decode_latents

TURBO_STEPS, TURBO_SHIFT = 8, 3.0  # the turbo models are distilled for these (SPEC 5.2)
BASE_STEPS, BASE_SHIFT, BASE_GUIDANCE = 60, 1.0, 7.0
PEAK = 10 ** (-1 / 20)  # -1 dBFS, as the original app leaves its music (SPEC 8.1)


@dataclass(slots=True)
class PipelineComponents:
    """What generating needs, on one device. ``dit`` may carry an adapter."""

    checkpoint: Checkpoint
    dit: nn.Module
    condition_encoder: Any
    text_encoder: TextEncoder
    vae: Any


def load_components(checkpoint: Checkpoint, *, device: torch.device | str, dtype: torch.dtype) -> PipelineComponents:
    """All parts of a checkpoint, frozen. Raises CheckpointError."""
    place: dict[str, Any] = {"device": device, "dtype": dtype}
    return PipelineComponents(
        checkpoint=checkpoint,
        dit=load.load_dit(checkpoint, **place),
        condition_encoder=load.load_condition_encoder(checkpoint, **place),
        text_encoder=load.load_text_encoder(checkpoint, **place),
        vae=load.load_vae(checkpoint, **place),
    )


@torch.no_grad()
def generate(
    parts: PipelineComponents,
    request: GenerationConfig,
    *,
    on_step: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Tensor:
    """The music of ``request``: [2, S] float32 on the CPU, 48 kHz, peak at -1 dBFS.

    The global random state is left as it was. Equal requests give equal music on one machine.

    Raises:
        JobCancelled: ``should_stop`` answered yes between two steps.
    """
    latents = generate_latents(parts, request, on_step=on_step, should_stop=should_stop)
    return postprocess_audio(decode_latents(parts.vae, latents))


@torch.no_grad()
def generate_latents(
    parts: PipelineComponents,
    request: GenerationConfig,
    *,
    on_step: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Tensor:
    """[T, C] the music of ``request`` before it is decoded. The rest as ``generate``."""
    steps, guidance, shift = _schedule(parts.checkpoint, request)
    words, language = normalize_lyrics(request.lyrics, request.language)

    def after_step(pipeline: Any, step: int, _timestep: float, _tensors: dict[str, Any]) -> dict[str, Any]:
        if should_stop and should_stop():
            raise JobCancelled("stopped while generating")
        if on_step:
            on_step(step + 1, steps)
        return {}

    was_training = parts.dit.training
    parts.dit.eval()
    try:
        latents: Tensor = _pipeline(parts)(
            prompt=request.prompt,
            lyrics=words,
            vocal_language=language,
            audio_duration=request.duration_s,
            bpm=request.bpm,
            keyscale=request.keyscale,
            timesignature=request.timesignature,
            num_inference_steps=steps,
            guidance_scale=guidance,
            shift=shift,
            generator=torch.Generator("cpu").manual_seed(request.seed),
            output_type="latent",
            callback_on_step_end=after_step,
        ).audios  # [1, T, C]
    finally:
        parts.dit.train(was_training)
    return latents[0]


def postprocess_audio(audio: Tensor) -> Tensor:
    """[2, S] without offset, peak at -1 dBFS, as the original app does after decoding (SPEC 8.1)."""
    audio = audio.float().cpu()
    audio = audio - audio.mean(dim=-1, keepdim=True)
    return audio * (PEAK / audio.abs().max().clamp(min=1e-6))


def _schedule(checkpoint: Checkpoint, request: GenerationConfig) -> tuple[int, float, float]:
    """Steps, guidance and shift: what was asked for, else what the checkpoint was made for."""
    turbo = checkpoint.is_turbo
    steps = request.steps or (TURBO_STEPS if turbo else BASE_STEPS)
    guidance = request.guidance if request.guidance is not None else BASE_GUIDANCE
    shift = request.shift or (TURBO_SHIFT if turbo else BASE_SHIFT)
    return steps, 1.0 if turbo else guidance, shift


def _pipeline(parts: PipelineComponents) -> Any:
    library: Any = diffusers  # its classes carry no types
    pipeline = library.AceStepPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder.model,
        tokenizer=parts.text_encoder.tokenizer,
        transformer=parts.dit,
        condition_encoder=parts.condition_encoder,
        scheduler=library.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
