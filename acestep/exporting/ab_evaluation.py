"""A/B evaluation of an adapter: generate with and without it from the same seeds and prompts, and compare."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from acestep.adapters.base import StoredAdapter
from acestep.adapters.files import load_adapter, read_adapter
from acestep.adapters.metadata import AdapterMetadata
from acestep.audio.files import write_audio
from acestep.core.events import LogMessage, PhaseStarted, Progressed, Saved, Started
from acestep.core.files import replace_folder
from acestep.core.jobs import Context
from acestep.dataset.prompt import caption_with_tag
from acestep.exporting.configs import ProveJob
from acestep.exporting.delta import BaseWeights
from acestep.exporting.marker import require_replaceable, write_marker
from acestep.exporting.model_card import sample_prompt, tag_position
from acestep.exporting.source import ExportSource
from acestep.models.checkpoint import Checkpoint, check_vae_and_text_encoder, find_checkpoint
from acestep.models.configs import GenerationConfig
from acestep.models.device import choose_device, choose_dtype
from acestep.models.generate import PipelineComponents, generate_latents, load_components, postprocess_audio
from acestep.models.memory_limit import limit_memory
from acestep.models.vae import decode_latents

MARKER = "proof.json"
_KIND = "proof"
_WINDOW, _HOP, _BANDS = 2048, 512, 40  # samples, samples, log-spaced bands from 40 Hz to 20 kHz
_FLOOR_DB = -60.0  # relative to the loudest band; lower levels are inaudible

# Thresholds of the summary: effect of the adapter relative to the effect of another seed.
_HARDLY, _LITTLE, _TOO_MUCH = 0.05, 0.25, 1.5


@dataclass(frozen=True, slots=True)
class GeneratedClip:
    """A generation: latents [T, C], and level of each frequency band [F, bands] in dB."""

    latents: Tensor
    levels_db: Tensor


def prove_job(config: ProveJob, context: Context) -> dict[str, Any]:
    """Generate each prompt and seed with and without the adapter. Writes audio files and metrics to ``config.out``.

    Returns:
        ``sentence`` (summary), ``latent_difference`` and ``seed_difference`` (mean relative difference of the latents
        that the adapter and another seed cause), ``spectrum_difference_db``, ``strongest`` and ``weakest`` (modules
        with the norm of their delta relative to the weight), ``files``. proof.json lists all clips and modules.

    Raises:
        CheckpointError, AdapterError, ModelMismatch: the base model or the adapter cannot be read, or do not match.
        StorageError: ``config.out`` contains other files, or cannot be written.
        JobCancelled: the job was cancelled. An existing folder stays unchanged.
    """
    checkpoint = find_checkpoint(config.checkpoint, config.root)
    check_vae_and_text_encoder(checkpoint)
    adapter = read_adapter(config.adapter)
    base = BaseWeights(checkpoint)
    base.check_compatible(adapter)
    require_replaceable(config.out, MARKER, _KIND)
    delta_norms = relative_delta_norms(ExportSource(adapter, base, strength=config.strength), base)
    requests = _requests(config, adapter.metadata)
    context.emit(Started(job="prove", total=2 * len(requests), unit="generations"))
    with replace_folder(config.out) as fresh:
        metrics = _ABEvaluator(config, context, fresh, checkpoint, adapter).compare(requests)
        metrics = {"sentence": summarize(metrics, delta_norms), **metrics}
        write_marker(fresh, MARKER, _KIND, {**metrics, "adapter": str(adapter.file), "modules": delta_norms})
    context.emit(LogMessage(message=metrics["sentence"]))
    context.emit(Saved(path=str(config.out), role="audio"))
    ordered = sorted(delta_norms, key=delta_norms.__getitem__)
    files = [[str(config.out / name) for name in clip["files"]] for clip in metrics.pop("pieces")]
    strongest, weakest = ({name: delta_norms[name] for name in names} for names in (ordered[:-4:-1], ordered[:3]))
    return {**metrics, "strongest": strongest, "weakest": weakest, "files": files}


def relative_delta_norms(source: ExportSource, base: BaseWeights) -> dict[str, float]:
    """Module name -> |weight delta| / |weight|, at the strength of ``source``."""
    return {name: float(source.weight_delta(name).norm() / base[name].norm()) for name in source.modules}


def summarize(metrics: dict[str, Any], delta_norms: dict[str, float]) -> str:
    """Describe the metrics in one or two sentences, with a recommendation.

    Args:
        metrics: the result of ``_ABEvaluator.compare``.
        delta_norms: the result of ``relative_delta_norms``.
    """
    relative_effect = metrics["latent_difference"] / max(metrics["seed_difference"], 1e-9)
    spectrum_db = metrics["spectrum_difference_db"]
    effect = f"{relative_effect:.1%} of the effect of another seed, {spectrum_db:.1f} dB in the spectrum"
    unchanged = sum(delta_norm == 0 for delta_norm in delta_norms.values())
    if unchanged == len(delta_norms):
        return "The adapter is untrained: all weight deltas are zero. Train it for at least one step."
    if relative_effect < _HARDLY:
        level, advice = "negligible", "Train longer, or with a higher learning rate."
    elif relative_effect < _LITTLE:
        level, advice = "small", "Listen to the clips. For a stronger effect, train longer."
    elif relative_effect < _TOO_MUCH:
        level, advice = "clear", "Listen to the clips to judge the style."
    else:
        level, advice = "very strong", "If the audio has artifacts, lower the strength or use an earlier epoch."
    text = f"The effect of the adapter is {level}: {effect}. {advice}"
    return text + (f" {unchanged} of {len(delta_norms)} modules have a zero weight delta." if unchanged else "")


class _ABEvaluator:
    """Generates all clips with the base model first, then with the adapter."""

    def __init__(
        self, config: ProveJob, context: Context, folder: Path, checkpoint: Checkpoint, adapter: StoredAdapter
    ) -> None:
        self._config = config
        self._checkpoint = checkpoint
        self._context = context
        self._folder = folder
        self._adapter = adapter
        self._done = 0

    def compare(self, requests: list[GenerationConfig]) -> dict[str, Any]:
        """Metrics of all clips and their means."""
        device = choose_device(self._config.device)
        dtype = choose_dtype(device.value)
        self._context.emit(PhaseStarted(phase=f"Generating on {device.value}: {device.reason}"))
        precision = str(dtype.value).removeprefix("torch.")
        self._context.emit(LogMessage(message=f"precision {precision}: {dtype.reason}"))
        limit_memory(device.value, lambda message: self._context.emit(LogMessage(message=message)))
        components = load_components(self._checkpoint, device=device.value, dtype=dtype.value)
        total = 2 * len(requests)
        numbered = list(enumerate(requests))
        base_clips = [self._generate(components, number, request, "base", total) for number, request in numbered]
        loaded = load_adapter(components.dit, self._adapter.file)
        loaded.set_strength(self._config.strength)
        adapter_clips = [self._generate(components, number, request, "adapter", total) for number, request in numbered]
        pairs = list(zip(base_clips, adapter_clips, strict=True))
        latents = [relative_difference(adapter.latents, base.latents) for base, adapter in pairs]
        levels_db = [float((adapter.levels_db - base.levels_db).abs().mean()) for base, adapter in pairs]
        clips = [
            {
                "prompt": request.prompt,
                "seed": request.seed,
                "files": [_file(number, request, which) for which in ("base", "adapter")],
                "latent_difference": latents[number],
                "spectrum_difference_db": levels_db[number],
            }
            for number, request in numbered
        ]
        return {
            "latent_difference": mean(latents),
            "seed_difference": _between_seeds(requests, base_clips),
            "spectrum_difference_db": mean(levels_db),
            "pieces": clips,
        }

    def _generate(
        self, components: PipelineComponents, number: int, request: GenerationConfig, which: str, total: int
    ) -> GeneratedClip:
        self._context.stop_if_cancelled()
        stop: Callable[[], bool] = lambda: self._context.cancelled  # noqa: E731
        latents = generate_latents(components, request, should_stop=stop)
        audio = postprocess_audio(decode_latents(components.vae, latents))
        file = _file(number, request, which)
        write_audio(self._folder / file, audio)
        self._done += 1
        self._context.emit(Progressed(done=self._done, total=total, note=file))
        return GeneratedClip(latents.float().cpu(), band_levels(audio))


def _file(number: int, request: GenerationConfig, which: str) -> str:
    return f"{number + 1:02}-seed-{request.seed}-{which}.wav"


def _requests(config: ProveJob, meta: AdapterMetadata) -> list[GenerationConfig]:
    """Every prompt with every seed. A missing trigger word is inserted at its position in training."""
    prompts = [
        prompt if meta.trigger_word in prompt else caption_with_tag(prompt, meta.trigger_word, tag_position(meta))
        for prompt in config.prompts or [sample_prompt(meta)]
    ]
    length = {"duration_s": config.duration_s, "steps": config.steps}
    return [GenerationConfig(prompt=p, seed=seed, **length) for p, seed in itertools.product(prompts, config.seeds)]


def _between_seeds(requests: list[GenerationConfig], base_clips: list[GeneratedClip]) -> float:
    """Mean relative difference of the base model's latents between seeds of the same prompt."""
    pairs = itertools.combinations(zip(requests, base_clips, strict=True), 2)
    return mean(relative_difference(b.latents, a.latents) for (r, a), (s, b) in pairs if r.prompt == s.prompt)


def relative_difference(latents: Tensor, reference: Tensor) -> float:
    """|latents - reference| / |reference|"""
    return float((latents - reference).norm() / reference.norm())


def band_levels(audio: Tensor) -> Tensor:
    """Band levels [F, bands] of audio [2, S] at 48 kHz, in dB relative to the loudest band, at least -60 dB."""
    spectrum = torch.stft(audio.mean(dim=0), _WINDOW, _HOP, window=torch.hann_window(_WINDOW), return_complex=True)
    power = spectrum.abs().square().T  # [F, bins]
    edges = torch.logspace(torch.log10(torch.tensor(40.0)), torch.log10(torch.tensor(20_000.0)), _BANDS + 1)
    bins = (edges * _WINDOW / 48_000).round().long()
    bands = [power[:, start : max(start + 1, end)].mean(dim=1) for start, end in itertools.pairwise(bins.tolist())]
    decibels = 10 * torch.stack(bands, dim=1).clamp_min(1e-12).log10()
    return (decibels - decibels.max()).clamp_min(_FLOOR_DB)
