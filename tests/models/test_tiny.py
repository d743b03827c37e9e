from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from acestep.core.errors import CheckpointError
from acestep.models import create_tiny_checkpoint, load_audio_tokenizer, load_dit, load_silence_latent, load_vae
from acestep.models.checkpoint import check_checkpoint, check_vae_and_text_encoder, find_checkpoint
from acestep.models.condition import context_latents
from acestep.models.vae import decode_latents, encode_audio
from tests.songs import sine_song


def contents(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def latents(tiny_checkpoint: Path) -> list[Tensor]:
    vae = load_vae(tiny_checkpoint)
    return [encode_audio(vae, sine_song(2.0, seed), seed=seed) for seed in range(2)]


def test_tiny_checkpoints_are_deterministic(tiny_root: Path, tmp_path: Path) -> None:
    for variant in ("turbo", "base", "xl-base"):
        create_tiny_checkpoint(tmp_path, variant)
    assert contents(tmp_path) == contents(tiny_root)
    assert {path.name for path in tmp_path.iterdir()} == {
        "acestep-v15-tiny",
        "acestep-v15-tiny-base",
        "acestep-v15-tiny-xl-base",
        "acestep-5Hz-lm-tiny",
        "Qwen3-Embedding-0.6B",
        "vae",
    }


def test_complete_folders_are_kept_and_corrupted_ones_are_rewritten(tmp_path: Path) -> None:
    folder = create_tiny_checkpoint(tmp_path)
    dit_mtime, vae_mtime = (
        (folder / "config.json").stat().st_mtime_ns,
        (tmp_path / "vae" / "config.json").stat().st_mtime_ns,
    )
    assert create_tiny_checkpoint(tmp_path) == folder
    assert (folder / "config.json").stat().st_mtime_ns == dit_mtime
    (folder / "model.safetensors").write_bytes(b"half")
    check_checkpoint(find_checkpoint(create_tiny_checkpoint(tmp_path)))
    assert (tmp_path / "vae" / "config.json").stat().st_mtime_ns == vae_mtime


def test_another_model_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text("mine", encoding="utf-8")
    with pytest.raises(CheckpointError, match="vae contains another model"):
        create_tiny_checkpoint(tmp_path)
    assert contents(tmp_path) == {"vae/config.json": b"mine"}


def test_an_unknown_variant_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'huge'"):
        create_tiny_checkpoint(tmp_path, "huge")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("suffix", "family", "turbo"), [("", "2b", True), ("-base", "2b", False), ("-xl-base", "xl", False)]
)
def test_every_variant_passes_the_checks_for_real_models(
    suffix: str, family: str, turbo: bool, tiny_root: Path
) -> None:
    checkpoint = find_checkpoint(tiny_root / f"acestep-v15-tiny{suffix}")
    check_checkpoint(checkpoint)
    check_vae_and_text_encoder(checkpoint)
    assert (checkpoint.family, checkpoint.is_turbo) == (family, turbo)


@torch.no_grad()
def test_the_silence_latent_equals_the_encoded_silence(tiny_checkpoint: Path) -> None:
    silence = load_silence_latent(tiny_checkpoint)
    encoded = load_vae(tiny_checkpoint).encode(torch.zeros(1, 2, 19200)).latent_dist
    assert silence.shape == (1, 15000, 64)
    assert torch.equal(silence[0, :10], encoded.mean[0].T)
    assert encoded.std.max() < 0.01


def test_latents_have_about_unit_variance_and_decode_to_audible_audio(
    tiny_checkpoint: Path, latents: list[Tensor]
) -> None:
    assert all(0.6 < float(sample.std()) < 1.5 for sample in latents)
    assert all(float(sample.var(dim=0).mean()) > 0.1 for sample in latents)
    audio = decode_latents(load_vae(tiny_checkpoint), latents[0])
    audible = torch.fft.rfft(audio[0]).abs()[len(latents[0]) :]  # above 25 Hz
    assert audio.isfinite().all()
    assert 0.02 < float(audio.std()) < 0.5
    assert audible.square().sum() > 0.5 * torch.fft.rfft(audio[0]).abs().square().sum()


def test_a_trained_lora_beats_the_base_model_and_the_zero_prediction(
    tiny_checkpoint: Path, latents: list[Tensor]
) -> None:
    dit, silence = load_dit(tiny_checkpoint), load_silence_latent(tiny_checkpoint)
    condition = torch.randn(2, 1, 20, 160, generator=torch.Generator().manual_seed(0))

    def loss(model: torch.nn.Module, index: int, seed: int) -> tuple[Tensor, Tensor]:
        """The flow-matching loss at a random timestep and noise from ``seed``, and the zero-prediction loss."""
        data, generator = latents[index][None], torch.Generator().manual_seed(seed)
        time = torch.sigmoid(torch.randn(1, generator=generator) - 0.4)
        noise = torch.randn(data.shape, generator=generator)
        context = context_latents(silence, data.shape[1])[None]
        velocity = model(time * noise + (1 - time) * data, time, time, condition[index], context).sample
        return (velocity - (noise - data)).square().mean(), (noise - data).square().mean()

    @torch.no_grad()
    def average(model: torch.nn.Module) -> Tensor:
        return torch.stack([torch.stack(loss(model, seed % 2, 1000 + seed)) for seed in range(8)]).mean(dim=0)

    baseline, zero = average(dit)
    targets = ["to_q", "to_k", "to_v", "to_out.0", "gate_proj", "up_proj", "down_proj"]
    torch.manual_seed(0)
    model = get_peft_model(dit, LoraConfig(r=8, lora_alpha=8, target_modules=targets))
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=4e-3)
    for step in range(60):
        loss(model, step % 2, step)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    trained, _ = average(model)
    assert trained < 0.8 * zero
    assert trained < 0.8 * baseline


def test_the_language_model_has_a_token_for_each_audio_code(tiny_root: Path) -> None:
    folder = tiny_root / "acestep-5Hz-lm-tiny"
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    codes = load_audio_tokenizer(tiny_root / "acestep-v15-tiny").quantizer.codebook_size
    tokens = [f"<|audio_code_{code}|>" for code in range(codes)]
    ids = tokenizer("".join(tokens)).input_ids
    assert [tokenizer.decode([token_id]) for token_id in ids] == tokens
    assert f"<|audio_code_{codes}|>" not in tokenizer.get_vocab()
    prompt = tokenizer.apply_chat_template(
        [{"role": "system", "content": "x"}, {"role": "user", "content": "".join(tokens[:5])}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    output = model.generate(**prompt, max_new_tokens=3, do_sample=False)
    assert re.match(r"<\|im_start\|>system\nx<\|im_end\|>\n<\|im_start\|>user\n", tokenizer.decode(output[0]))
    assert model.config.vocab_size == len(tokenizer)
