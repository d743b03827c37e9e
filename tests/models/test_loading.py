from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderOobleck
from safetensors.torch import load_file
from torch import Tensor, nn

import acestep.models
from acestep.core.errors import CheckpointError
from acestep.models.load import (
    load_audio_detokenizer,
    load_audio_tokenizer,
    load_condition_encoder,
    load_dit,
    load_null_condition,
    load_silence_latent,
    load_text_encoder,
    load_vae,
)
from tests.models.checkpoint_layouts import copied, in_diffusers_layout, rewritten, sharded

LOADERS: list[Callable[..., nn.Module]] = [
    load_dit,
    load_condition_encoder,
    load_audio_tokenizer,
    load_audio_detokenizer,
    load_vae,
]


def all_tensors(folder: Path) -> dict[str, Tensor]:
    """All parameters and buffers of a checkpoint by loader and name, including buffers that are not in a file."""
    tensors = {"silence": load_silence_latent(folder), "null": load_null_condition(folder)}
    modules: dict[str, Any] = {load.__name__: load(folder) for load in LOADERS}
    modules["text"] = load_text_encoder(folder).model
    for loader, module in modules.items():
        state = dict((*module.named_parameters(), *module.named_buffers()))
        tensors |= {f"{loader} {name}": tensor for name, tensor in state.items()}
    return tensors


@pytest.mark.parametrize("name", ["acestep-v15-tiny", "acestep-v15-tiny-xl-base"])
def test_all_layouts_load_the_same_tensors(name: str, tiny_root: Path, tmp_path: Path) -> None:
    expected = all_tensors(tiny_root / name)
    (tmp_path / "vae").symlink_to(tiny_root / "vae")
    (tmp_path / "Qwen3-Embedding-0.6B").symlink_to(tiny_root / "Qwen3-Embedding-0.6B")
    for folder in (sharded(tiny_root / name, tmp_path), in_diffusers_layout(tiny_root / name, tmp_path)):
        loaded = all_tensors(folder)
        assert loaded.keys() == expected.keys()
        assert all(torch.equal(loaded[key], expected[key]) for key in expected)
        assert torch.equal(velocity(folder), velocity(tiny_root / name))


@torch.no_grad()
def velocity(folder: Path) -> Tensor:
    """The velocity for random noise. Its last bits depend on the memory alignment of the weights too."""
    dit = load_dit(folder)
    noise = torch.randn(1, 200, 64 + 128, generator=torch.Generator().manual_seed(0))
    condition, time = torch.ones(1, 30, 160), torch.tensor([0.5])
    prediction: Tensor = dit(noise[..., :64], time, time, condition, noise[..., 64:]).sample
    return prediction


@pytest.mark.parametrize("load", LOADERS)
def test_components_are_frozen_in_evaluation_mode_and_of_the_requested_dtype(
    load: Callable[..., nn.Module], tiny_root: Path
) -> None:
    module = load(tiny_root / "acestep-v15-tiny-xl-base", device="cpu", dtype=torch.bfloat16)
    tensors = [*module.parameters(), *module.buffers()]
    assert not module.training
    assert not any(tensor.requires_grad or tensor.is_meta for tensor in tensors)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}


def test_the_models_package_exports_only_the_loading_functions(tiny_checkpoint: Path) -> None:
    assert acestep.models.load_dit is load_dit
    assert set(acestep.models.__all__) == set(dir(acestep.models))
    with pytest.raises(AttributeError, match="load_everything"):
        acestep.models.load_everything


def test_load_dit_reads_only_the_decoder(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = copied(tiny_checkpoint, tmp_path)
    weights = load_file(folder / "model.safetensors")
    others = [name for name in weights if not name.startswith(("decoder.", "null_condition_emb"))]
    rewritten(folder, **{name.replace(".", "__"): None for name in others})
    (folder / "silence_latent.pt").unlink()
    load_dit(folder)
    assert torch.equal(load_null_condition(folder), weights["null_condition_emb"])
    with pytest.raises(CheckpointError, match="is missing weights"):
        load_audio_tokenizer(folder)


@pytest.mark.parametrize(("xl", "name"), [(False, "acestep-v15-tiny"), (True, "acestep-v15-tiny-xl-base")])
def test_only_the_xl_timbre_token_depends_on_the_special_token(
    xl: bool, name: str, tiny_root: Path, tmp_path: Path
) -> None:
    changed = copied(tiny_root / name, tmp_path)
    rewritten(changed, encoder__timbre_encoder__special_token=torch.full((1, 1, 160), 3.0))
    before, after = (condition(folder) for folder in (tiny_root / name, changed))
    lyrics, timbre, text = slice(0, 7), 7, slice(8, None)
    assert torch.equal(before[lyrics], after[lyrics])
    assert torch.equal(before[text], after[text])
    assert torch.equal(before[timbre], after[timbre]) is not xl


def condition(folder: Path) -> Tensor:
    """Condition [L, D]: 7 lyric tokens, the timbre token and 5 text tokens."""
    generator = torch.Generator().manual_seed(0)
    encoder = load_condition_encoder(folder)
    with torch.no_grad():
        tokens: Tensor = encoder(
            text_hidden_states=torch.randn(1, 5, 32, generator=generator),
            text_attention_mask=torch.ones(1, 5, dtype=torch.bool),
            lyric_hidden_states=torch.randn(1, 7, 32, generator=generator),
            lyric_attention_mask=torch.ones(1, 7, dtype=torch.bool),
            refer_audio_acoustic_hidden_states_packed=torch.randn(1, 750, 64, generator=generator),
            refer_audio_order_mask=torch.zeros(1, dtype=torch.long),
        )[0]
    return tokens[0]


def test_the_xl_timbre_token_is_computed_at_the_prepended_special_token(tiny_root: Path) -> None:
    timbre = load_condition_encoder(tiny_root / "acestep-v15-tiny-xl-base").timbre_encoder
    plain = load_condition_encoder(tiny_root / "acestep-v15-tiny").timbre_encoder
    plain.load_state_dict(timbre.state_dict())
    frames = torch.randn(1, 750, 64, generator=torch.Generator().manual_seed(1))

    class TokenThenFrames(nn.Module):
        def forward(self, reference: Tensor) -> Tensor:
            return torch.cat([timbre.special_token, nn.functional.linear(reference, *embedding)], dim=1)

    embedding = (timbre.embed_tokens.weight, timbre.embed_tokens.bias)
    plain.embed_tokens = TokenThenFrames()
    order = torch.zeros(1, dtype=torch.long)
    with torch.no_grad():
        assert torch.equal(timbre(frames, order)[0], plain(frames, order)[0])


def test_the_vae_computes_the_same_without_weight_normalization(tiny_root: Path) -> None:
    original = AutoencoderOobleck.from_pretrained(tiny_root / "vae").eval()
    loaded = load_vae(tiny_root / "acestep-v15-tiny")
    audio = torch.randn(1, 2, 9600, generator=torch.Generator().manual_seed(2)) * 0.1
    with torch.no_grad():
        assert torch.equal(loaded.encode(audio).latent_dist.mean, original.encode(audio).latent_dist.mean)
        latents = loaded.encode(audio).latent_dist.mean
        assert torch.equal(loaded.decode(latents).sample, original.decode(latents).sample)
    assert not any(name.endswith(("weight_g", "weight_v")) for name in loaded.state_dict())
    assert not any(isinstance(value, Tensor) for module in loaded.modules() for value in vars(module).values())


def test_the_silence_latent_has_any_number_of_frames_but_a_fixed_shape(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = copied(tiny_checkpoint, tmp_path)
    torch.save(torch.zeros(1, 64, 900), folder / "silence_latent.pt")
    assert load_silence_latent(folder).shape == (1, 900, 64)
    assert load_condition_encoder(folder).silence_latent.shape == (1, 900, 64)
    torch.save(torch.zeros(64, 900), folder / "silence_latent.pt")
    with pytest.raises(CheckpointError, match=r"silence_latent\.pt does not contain"):
        load_silence_latent(folder)


class MaliciousPickle:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def test_code_in_a_silence_latent_is_rejected_and_not_executed(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = copied(tiny_checkpoint, tmp_path)
    for write in (torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))):
        write(MaliciousPickle(tmp_path / "executed"), folder / "silence_latent.pt")
        with pytest.raises(CheckpointError, match=r"silence_latent\.pt is corrupted"):
            load_silence_latent(folder)
    assert not (tmp_path / "executed").exists()


def test_a_missing_vae_or_text_encoder_or_that_of_another_model_is_reported(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder = copied(tiny_checkpoint, tmp_path)
    with pytest.raises(CheckpointError, match="vae"):
        load_vae(folder)
    shutil.copytree(tiny_checkpoint.parent / "Qwen3-Embedding-0.6B", tmp_path / "Qwen3-Embedding-0.6B")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "text_hidden_dim": 64}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="has hidden size 32, acestep-v15-tiny needs 64"):
        load_text_encoder(folder)
    (tmp_path / "Qwen3-Embedding-0.6B" / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is corrupted"):
        load_text_encoder(folder)
    (tmp_path / "Qwen3-Embedding-0.6B" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        load_text_encoder(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loaded_weights_do_not_change_with_their_files(dtype: torch.dtype, tiny_root: Path, tmp_path: Path) -> None:
    root = shutil.copytree(tiny_root, tmp_path / "models")
    dit, text = (load(root / "acestep-v15-tiny", dtype=dtype) for load in (load_dit, load_text_encoder))
    modules = [dit, text.model]
    before = [[parameter.clone() for parameter in module.parameters()] for module in modules]
    for file in [*(root / "acestep-v15-tiny").glob("*.safetensors"), *root.glob("Qwen3*/*.safetensors")]:
        with file.open("r+b") as opened:  # the same file, unlike one that is replaced
            opened.seek(file.stat().st_size // 2)
            opened.write(bytes(file.stat().st_size - file.stat().st_size // 2))
    for module, copies in zip(modules, before, strict=True):
        for parameter, copy in zip(module.parameters(), copies, strict=True):
            assert torch.equal(parameter, copy)
