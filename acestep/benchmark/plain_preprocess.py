"""Preprocessing as one writes it first: one song after another, each step after the one before it."""

from __future__ import annotations

from pathlib import Path

import torch

from acestep.audio.files import load_audio
from acestep.audio.loudness import normalize
from acestep.core.errors import AceStepError
from acestep.core.untrusted import is_folder
from acestep.dataset.scan import scan_folder
from acestep.dataset.store import read_dataset
from acestep.models import load
from acestep.models.checkpoint import find_checkpoint
from acestep.models.condition import context_latents, encode_condition
from acestep.models.device import choose_device, choose_dtype, encoder_dtype
from acestep.models.text import format_lyrics, format_prompt
from acestep.preprocessing.configs import PreprocessJob
from acestep.preprocessing.sample_sources import SampleSource, apply_overrides, iter_sample_sources
from acestep.tensors.record import TensorRecord, write_record


@torch.no_grad()
def preprocess_plainly(job: PreprocessJob) -> int:
    """Encode the songs of ``job`` into ``job.out``, and return how many. The VAE encodes each song as a whole.

    Raises:
        AceStepError: the first song that cannot be encoded.
    """
    checkpoint, device = find_checkpoint(job.checkpoint), choose_device(job.device).value
    dtype = encoder_dtype(choose_dtype(device, job.dtype).value)
    vae = load.load_vae(checkpoint, device=device, dtype=dtype)
    text_encoder = load.load_text_encoder(checkpoint, device=device, dtype=dtype)
    encoder = load.load_condition_encoder(checkpoint, device=device, dtype=dtype)
    silence = load.load_silence_latent(checkpoint, device=device, dtype=dtype)
    job.out.mkdir(parents=True)
    songs = 0
    for sample in _samples(job, str(dtype).removeprefix("torch.")):
        audio = normalize(load_audio(sample.audio, max_duration_s=job.max_duration_s), job.normalize)
        generator = torch.Generator(device).manual_seed(sample.encode_seed)
        latents = vae.encode(audio[None].to(device, dtype)).latent_dist.sample(generator)[0].T.cpu()
        text = text_encoder.encode_prompt(_prompt(sample, audio.shape[1] / 48_000))
        lyrics = text_encoder.embed_lyrics(format_lyrics(sample.lyrics, sample.language))
        condition = encode_condition(encoder, text, lyrics, silence).cpu()
        context = context_latents(silence, len(latents)).cpu()
        write_record(job.out / sample.file, TensorRecord(latents, context, condition, sample.metadata))
        songs += 1
    return songs


def _samples(job: PreprocessJob, dtype_name: str) -> list[SampleSource]:
    folder = is_folder(job.source)
    root = job.source if folder else job.source.parent
    dataset = scan_folder(job.source, name=job.source.resolve().name).dataset if folder else read_dataset(job.source)

    def fail(name: str, error: AceStepError) -> None:
        raise error

    checkpoint = find_checkpoint(job.checkpoint)
    return list(iter_sample_sources(apply_overrides(dataset, job), Path(root), job, checkpoint, dtype_name, fail))


def _prompt(sample: SampleSource, seconds: float) -> str:
    labels = sample.metadata
    return format_prompt(
        sample.text,
        bpm=labels["bpm"],
        timesignature=labels["timesignature"],
        keyscale=labels["keyscale"],
        duration_s=seconds,
    )
