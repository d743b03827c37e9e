"""Text-to-music generation with ``diffusers.AceStepPipeline``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from acestep.core.errors import GenerationError, JobCancelled
from acestep.models import load
from acestep.models.checkpoint import Checkpoint
from acestep.models.configs import GenerationConfig
from acestep.models.device import encoder_dtype, xpu_lacks_fp64
from acestep.models.prompt_condition import PromptCondition, encode_request, encode_texts
from acestep.models.text import TextEncoder
from acestep.models.vae import decode_latents, load_vae_beside, require_finite

TURBO_STEPS, TURBO_SHIFT = 8, 3.0  # what turbo models are distilled for; defaults of AceStepPipeline
BASE_STEPS, BASE_SHIFT, BASE_GUIDANCE = 60, 1.0, 7.0
PEAK = 10 ** (-1 / 20)  # -1 dBFS, as in AceStepPipeline


@dataclass(slots=True)
class PipelineComponents:
    """The modules that ``generate`` needs. ``dit`` may have an adapter.

    The VAE may be on another device than the others.
    """

    checkpoint: Checkpoint
    dit: Any
    condition_encoder: Any
    text_encoder: TextEncoder
    vae: Any


def load_components(checkpoint: Checkpoint, *, device: torch.device | str, dtype: torch.dtype) -> PipelineComponents:
    """Load all components of a checkpoint, frozen and in evaluation mode. Raises CheckpointError.

    With ``dtype`` fp16, only the decoder computes in it, the others in fp32.
    """
    to: dict[str, Any] = {"device": device, "dtype": encoder_dtype(dtype)}
    return PipelineComponents(
        checkpoint=checkpoint,
        dit=load.load_dit(checkpoint, device=device, dtype=dtype),
        condition_encoder=load.load_condition_encoder(checkpoint, **to),
        text_encoder=load.load_text_encoder(checkpoint, **to),
        vae=load_vae_beside(checkpoint, device=device, dtype=dtype),
    )


@torch.no_grad()
def generate(
    components: PipelineComponents,
    request: GenerationConfig,
    *,
    on_step: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Tensor:
    """Generate audio: [2, S] float32 on the CPU, 48 kHz, peak at -1 dBFS.

    Uses its own random generator and leaves the global one unchanged. Deterministic on one machine.

    Args:
        on_step: called after each denoising step with the number of finished steps and the total.
        should_stop: called after each denoising step; True cancels the generation.

    Raises:
        JobCancelled: ``should_stop`` returned True.
        GenerationError: latents or audio contain NaN or infinite values, or the device cannot compute guidance.
    """
    latents = generate_latents(components, request, on_step=on_step, should_stop=should_stop)
    return postprocess_audio(decode_latents(components.vae, latents))


def generate_latents(
    components: PipelineComponents,
    request: GenerationConfig,
    *,
    on_step: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Tensor:
    """Generate latents [T, C] without decoding them. Arguments and errors as in ``generate``."""
    condition = encode_request(components.condition_encoder, encode_texts(components.text_encoder, request))
    return denoise(components.checkpoint, components.dit, condition, request, on_step=on_step, should_stop=should_stop)


@torch.no_grad()
def denoise(
    checkpoint: Checkpoint,
    dit: Any,
    condition: PromptCondition,
    request: GenerationConfig,
    *,
    on_step: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Tensor:
    """Generate latents [T, C] from an encoded condition. Other arguments and errors as in ``generate``."""
    steps, guidance, shift = _schedule(checkpoint, request)
    _require_guidance(guidance, dit.device)

    def after_step(pipeline: Any, step: int, _timestep: float, _tensors: dict[str, Any]) -> dict[str, Any]:
        if should_stop and should_stop():
            raise JobCancelled("generation was canceled")
        if on_step:
            on_step(step + 1, steps)
        return {}

    was_training = dit.training
    dit.eval()
    try:
        latents: Tensor = _pipeline(dit, condition.to(dit.device))(
            prompt="",  # the condition has it
            audio_duration=request.duration_s,
            num_inference_steps=steps,
            guidance_scale=guidance,
            shift=shift,
            generator=torch.Generator("cpu").manual_seed(request.seed),
            output_type="latent",
            callback_on_step_end=after_step,
        ).audios  # [1, T, C]
    finally:
        dit.train(was_training)
    return require_finite(latents[0], "latents", dit.dtype)


def postprocess_audio(audio: Tensor) -> Tensor:
    """Remove the DC offset of each channel of [2, S] audio and scale the peak to -1 dBFS, like the ACE-Step 1.5 app."""
    audio = audio.float().cpu()
    audio = audio - audio.mean(dim=-1, keepdim=True)
    return audio * (PEAK / audio.abs().max().clamp(min=1e-6))


def _schedule(checkpoint: Checkpoint, request: GenerationConfig) -> tuple[int, float, float]:
    """Steps, guidance scale and shift: as requested, else the defaults of the checkpoint."""
    turbo = checkpoint.is_turbo
    steps = request.steps or (TURBO_STEPS if turbo else BASE_STEPS)
    guidance = request.guidance if request.guidance is not None else BASE_GUIDANCE
    shift = request.shift or (TURBO_SHIFT if turbo else BASE_SHIFT)
    return steps, 1.0 if turbo else guidance, shift


def _require_guidance(guidance: float, device: torch.device) -> None:
    """Raises GenerationError where the guidance of AceStepPipeline, which computes in fp64, is not possible."""
    if guidance > 1 and xpu_lacks_fp64(device):
        raise GenerationError(
            f"guidance {guidance:g} needs fp64, which the Intel GPU {device} does not have",
            hint="Use a turbo model, guidance 1, or the device cpu.",
        )


class _Decoder(nn.Module):
    """The decoder for the pipeline. In half precision it computes under autocast, as in training.

    The pipeline keeps latents, timesteps and condition in ``dtype``, which is that of the encoders.
    """

    def __init__(self, dit: Any) -> None:
        super().__init__()
        self.dit, self.config = dit, dit.config
        self.device, self.dtype = dit.device, encoder_dtype(dit.dtype)

    def forward(self, **inputs: Any) -> tuple[Tensor]:
        compute = self.dit.dtype
        with torch.autocast(self.device.type, dtype=compute, enabled=compute != torch.float32):
            return (self.dit(**inputs)[0].to(self.dtype),)


def _pipeline(dit: Any, condition: PromptCondition) -> Any:
    """The pipeline up to the latents, with the output of its encoders instead of the encoders."""
    library: Any = diffusers  # its lazily imported classes have no type hints
    pipeline = library.AceStepPipeline(
        vae=None,
        text_encoder=None,
        tokenizer=None,
        transformer=_Decoder(dit),
        condition_encoder=condition,
        scheduler=library.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0),
    )
    pipeline.encode_prompt = lambda **_: (None, None, None, None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
