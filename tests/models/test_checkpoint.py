from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from acestep.core.errors import CheckpointError
from acestep.core.paths import PROJECT
from acestep.models.checkpoint import (
    Checkpoint,
    check_checkpoint,
    check_vae_and_text_encoder,
    encoder_fingerprint,
    find_checkpoint,
    list_checkpoints,
)
from tests.models.checkpoint_layouts import copied, in_diffusers_layout, rewritten, sharded


def test_find_and_check_do_not_import_torch(tiny_checkpoint: Path) -> None:
    code = (
        "import sys; from acestep.models.checkpoint import *\n"
        "import acestep.models\n"
        f"checkpoint = find_checkpoint({str(tiny_checkpoint)!r})\n"
        "check_checkpoint(checkpoint); encoder_fingerprint(checkpoint)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, cwd=PROJECT, check=False).returncode == 0
    )


def test_find_by_name_in_a_custom_root_or_its_checkpoints_folder(tiny_root: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").symlink_to(tiny_root)
    direct = find_checkpoint("acestep-v15-tiny", custom_root=tiny_root)
    nested = find_checkpoint("acestep-v15-tiny", custom_root=tmp_path)
    assert direct.folder == tiny_root / "acestep-v15-tiny"
    assert nested.folder == tmp_path / "checkpoints" / "acestep-v15-tiny"


def test_find_by_path_with_any_folder_name(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my 'own' model"
    shutil.copytree(tiny_checkpoint, folder)
    assert find_checkpoint(folder).name == "my 'own' model"
    assert find_checkpoint(f' "{folder}" ').folder == folder


def test_an_unknown_name_reports_the_searched_folders_and_the_nearest_name(tiny_root: Path) -> None:
    with pytest.raises(CheckpointError, match="'acestep-v15-tyny'") as caught:
        find_checkpoint("acestep-v15-tyny", custom_root=tiny_root)
    assert str(tiny_root / "checkpoints") in str(caught.value)
    assert "acestep-v15-tiny" in caught.value.hint


def test_list_checkpoints_returns_each_name_once_and_skips_invalid_configs(tiny_root: Path, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "checkpoints"):
        copied(tiny_root / "acestep-v15-tiny-base", folder)
    copied(tiny_root / "acestep-v15-tiny", tmp_path)
    broken = tmp_path / "acestep-v15-broken"
    broken.mkdir()
    (broken / "config.json").write_text("{", encoding="utf-8")
    (tmp_path / "acestep-v15-empty").mkdir()
    checkpoints = list_checkpoints(tmp_path)
    assert [checkpoint.name for checkpoint in checkpoints] == ["acestep-v15-tiny", "acestep-v15-tiny-base"]
    assert checkpoints[1].folder == tmp_path / "acestep-v15-tiny-base"


def test_family_variant_and_components_root_of_a_checkpoint(tiny_root: Path) -> None:
    turbo, base, xl = (find_checkpoint(tiny_root / f"acestep-v15-tiny{suffix}") for suffix in ("", "-base", "-xl-base"))
    assert (turbo.family, turbo.variant, turbo.is_turbo) == ("2b", "turbo", True)
    assert (base.family, base.variant, base.is_turbo) == ("2b", "base", False)
    assert (xl.family, xl.variant, xl.is_turbo) == ("xl", "base", False)
    assert turbo.components_root == tiny_root
    assert (turbo.timestep_mu, turbo.timestep_sigma) == (-0.4, 1.0)


@pytest.mark.parametrize(
    ("name", "config", "variant"),
    [
        ("acestep-v15-sft", {}, "sft"),
        ("acestep-v15-sft", {"is_turbo": False, "model_version": "turbo"}, "sft"),
        ("acestep-v15-base", {"model_version": "turbo"}, "base"),
        ("acestep-v15-turbo-shift3", {}, "turbo"),
        ("acestep-v15-xl-sft-diffusers", {"is_turbo": False}, "sft"),
        ("merged", {"is_turbo": True}, "turbo"),
        ("merged", {"is_turbo": False}, "base"),
        ("merged", {"model_version": "sft"}, "sft"),
        ("merged", {}, "turbo"),
    ],
)
def test_variant_comes_from_the_config_then_the_name(name: str, config: dict[str, object], variant: str) -> None:
    checkpoint = Checkpoint(name, Path(name), "original", config)
    assert checkpoint.variant == variant


def test_tiny_checkpoints_pass_the_checks_in_each_layout(tiny_root: Path, tmp_path: Path) -> None:
    for name in ("acestep-v15-tiny", "acestep-v15-tiny-xl-base"):
        original = tiny_root / name
        layouts = (original, sharded(original, tmp_path), in_diffusers_layout(original, tmp_path))
        for folder in layouts:
            check_checkpoint(find_checkpoint(folder))
        for folder in (original, layouts[2]):
            check_vae_and_text_encoder(find_checkpoint(folder))


def test_fingerprint_depends_on_the_encoder_and_not_on_layout_or_dtype(tiny_root: Path, tmp_path: Path) -> None:
    original = tiny_root / "acestep-v15-tiny"
    expected = encoder_fingerprint(find_checkpoint(original))
    bf16 = copied(original, tmp_path / "bf16")
    weights = load_file(original / "model.safetensors")
    save_file({name: weight.bfloat16() for name, weight in weights.items()}, bf16 / "model.safetensors")
    other_decoder = copied(original, tmp_path / "other_decoder")
    rewritten(other_decoder, decoder__norm_out__weight=torch.zeros(160))
    for folder in (sharded(original, tmp_path), in_diffusers_layout(original, tmp_path), bf16, other_decoder):
        assert encoder_fingerprint(find_checkpoint(folder)) == expected
    other = copied(original, tmp_path / "other")
    rewritten(other, encoder__text_projector__weight=torch.zeros(160, 32))
    assert encoder_fingerprint(find_checkpoint(other)) != expected
    assert encoder_fingerprint(find_checkpoint(tiny_root / "acestep-v15-tiny-base")) != expected


def test_missing_unexpected_and_misshapen_weights_are_reported_by_key(tiny_checkpoint: Path, tmp_path: Path) -> None:
    missing, unexpected, shape = (copied(tiny_checkpoint, tmp_path / name) for name in "abc")
    rewritten(missing, decoder__layers__0__mlp__up_proj__weight=None)
    rewritten(unexpected, decoder__layers__9__surprise=torch.zeros(1))
    rewritten(shape, decoder__norm_out__weight=torch.zeros(161))
    with pytest.raises(CheckpointError, match=r"is missing weights: decoder\.layers\.0\.mlp\.up_proj\.weight"):
        check_checkpoint(find_checkpoint(missing))
    with pytest.raises(CheckpointError, match=r"unexpected weights: decoder\.layers\.9\.surprise"):
        check_checkpoint(find_checkpoint(unexpected))
    with pytest.raises(
        CheckpointError, match=r"norm_out\.weight has shape \[161\], expected \[160\] from config\.json"
    ):
        check_checkpoint(find_checkpoint(shape))


def test_a_truncated_file_is_reported_with_the_first_truncated_weight(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = copied(tiny_checkpoint, tmp_path)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated at tokenizer\."):
        check_checkpoint(find_checkpoint(folder))


@pytest.mark.parametrize("content", [b"", b"\x02", b"no weights at all", b"\x04\0\0\0\0\0\0\0[[]]", b"\xff" * 64])
def test_an_invalid_safetensors_file_is_reported_as_corrupted(
    content: bytes, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder = copied(tiny_checkpoint, tmp_path)
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is corrupted"):
        check_checkpoint(find_checkpoint(folder))


@pytest.mark.parametrize("name", ["model.safetensors", "silence_latent.pt"])
def test_a_missing_file_is_reported_by_name(name: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = copied(tiny_checkpoint, tmp_path)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        check_checkpoint(find_checkpoint(folder))


def test_a_missing_vae_or_text_encoder_is_reported_by_name(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = copied(tiny_checkpoint, tmp_path)
    with pytest.raises(CheckpointError, match="vae"):
        check_vae_and_text_encoder(find_checkpoint(folder))
    shutil.copytree(tiny_checkpoint.parent / "vae", tmp_path / "vae")
    with pytest.raises(CheckpointError, match=r"Qwen3-Embedding-0\.6B"):
        check_vae_and_text_encoder(find_checkpoint(folder))


def test_a_missing_shard_or_weight_of_a_shard_is_reported_by_name(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = sharded(tiny_checkpoint, tmp_path)
    shard = folder / "model-00002-of-00003.safetensors"
    weights = load_file(shard)
    removed = weights.popitem()[0]
    save_file(weights, shard)
    with pytest.raises(CheckpointError, match=f"00002-of-00003.safetensors is missing the weight {removed}"):
        check_checkpoint(find_checkpoint(folder))
    shard.unlink()
    with pytest.raises(CheckpointError, match=r"00002-of-00003\.safetensors is missing"):
        check_checkpoint(find_checkpoint(folder))


def test_an_index_that_refers_outside_its_folder_is_rejected(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = sharded(tiny_checkpoint, tmp_path)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"decoder.norm_out.weight": "../other.safetensors"}}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="refers to a file outside its folder"):
        check_checkpoint(find_checkpoint(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": "wide"}, "hidden_size in its config.json must be an integer from 1 to 262,144, got 'wide'"),
        ({"layer_types": ["full_attention"]}, "layer_types in its config.json has 1 entries"),
    ],
)
def test_an_invalid_config_is_rejected(
    change: dict[str, object], message: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder = copied(tiny_checkpoint, tmp_path)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **change}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        find_checkpoint(folder)
