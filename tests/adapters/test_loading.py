"""Load adapters of this and other trainers, for inference and to continue training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lycoris import LycorisNetwork, create_lycoris
from peft import LoHaConfig, LoraConfig, get_peft_model
from torch import Tensor, nn

from acestep.adapters.configs import AdapterConfig, DoRAConfig, LoKRConfig, LoRAConfig
from acestep.adapters.configs import LoHaConfig as OurLoHaConfig
from acestep.adapters.files import find_adapter, inject, load_adapter, load_weights_into, read_adapter, read_metadata
from acestep.core.errors import AdapterError
from tests.adapters.small import (
    DORA,
    EVERY,
    LOHA,
    LORA,
    PISSA,
    answer,
    make_decoder,
    relative,
    save,
    train_steps,
    trained,
    with_original_names,
)

every_kind = pytest.mark.parametrize(("kind", "config"), EVERY)


def randomise(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = 0.2 * torch.randn(parameter.shape, generator=generator)
            if "lora_magnitude_vector" in name:
                parameter.mul_(1 + noise)
            elif any(part in name for part in ("lora_", "lokr_", "hada_")):
                parameter.copy_(noise)


def stock_lora(folder: Path, **settings: Any) -> Tensor:
    """Write the ``adapter/`` folder of ace-lora-trainer; returns the output of its model."""
    names = ["q_proj", "k_proj", "v_proj", "o_proj"]
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": names, "bias": "none", **settings})
    model = get_peft_model(with_original_names(make_decoder()), config)
    randomise(model)
    model.save_pretrained(folder / "adapter")
    file = folder / "adapter" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "trigger_word": "old", "tag_position": "prepend"}))
    return answer(model)


def stock_lokr(folder: Path, dtype: torch.dtype = torch.float32, **settings: Any) -> Tensor:
    """The same for LoKr, which adapts every linear and convolution layer there, whatever the targets."""
    config = {"linear_dim": 2, "linear_alpha": 4.0, "factor": 4, "decompose_both": False, "use_tucker": False}
    config |= settings
    model = with_original_names(make_decoder())
    LycorisNetwork.apply_preset({"target_name": [r".*(q_proj|k_proj|v_proj|o_proj)$"]})
    network = create_lycoris(model, 1.0, algo="lokr", **config)
    network.apply_to()
    randomise(network)
    (folder / "adapter").mkdir(parents=True)
    file = folder / "adapter" / "lokr_weights.safetensors"
    network.save_weights(str(file), dtype, {"adapter_type": "lokr"})
    network.load_weights(str(file))
    about = {"adapter_type": "lokr", "algo": "lokr", **config, "dropout": 0.0, "target_modules": ["q_proj"]}
    (folder / "adapter" / "lokr_config.json").write_text(json.dumps({**about, "trigger_word": "old"}))
    return answer(model)


@every_kind
def test_saving_and_loading_preserves_the_output(tmp_path: Path, kind: str, config: AdapterConfig) -> None:
    decoder = make_decoder()
    base = answer(decoder)
    adapter = trained(decoder, kind, config)
    full, folder = answer(decoder), save(adapter, tmp_path / "a")
    adapter.remove()
    loaded = load_adapter(decoder, folder)
    assert relative(answer(decoder), full, base) < 1e-5
    assert not any(parameter.requires_grad for parameter in decoder.parameters())
    loaded.set_strength(0.0)
    assert torch.equal(answer(decoder), base)
    loaded.remove()
    assert torch.equal(answer(decoder), base)


@every_kind
def test_training_continues_from_an_adapter_file(tmp_path: Path, kind: str, config: AdapterConfig) -> None:
    first = trained(make_decoder(), kind, config)
    folder = save(first, tmp_path / "a")
    second = inject(make_decoder(), kind, config, "both", True)
    metadata = load_weights_into(second, folder)
    assert metadata.config == config.model_dump()
    assert relative(answer(second.network), answer(first.network), answer(make_decoder())) < 1e-5
    train_steps(second)
    assert not torch.equal(answer(second.network), answer(first.network))


def test_weights_are_rescaled_for_an_adapter_with_another_alpha(tmp_path: Path) -> None:
    base = answer(make_decoder())
    first = trained(make_decoder(), "lora", LORA)
    second = inject(make_decoder(), "lora", LoRAConfig(r=4, alpha=32, dropout=0.0), "both", True)
    load_weights_into(second, save(first, tmp_path / "a"))
    assert relative(answer(second.network), answer(first.network), base) < 1e-5


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (("lora", LoRAConfig(r=8, alpha=8), "both", True), r"lora_A\.weight has shape \[4, 64\], expected \[8, 64\]"),
        (("lora", LORA, "both", False), r"mlp\.gate_proj\.lora_A\.weight is not part of this adapter"),
        (("lokr", LoKRConfig(), "both", True), "is a LoRA, but this run trains a LoKr"),
    ],
)
def test_weights_of_other_settings_are_rejected(
    tmp_path: Path, other: tuple[str, AdapterConfig, str, bool], words: str
) -> None:
    folder = save(trained(make_decoder(), "lora", LORA), tmp_path / "a")
    adapter = inject(make_decoder(), *other)
    before = adapter.state()
    with pytest.raises(AdapterError, match=words):
        load_weights_into(adapter, folder)
    assert all(torch.equal(value, before[key]) for key, value in adapter.state().items())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {
            "rank_pattern": {"cross_attn.v_proj": 2},
            "alpha_pattern": {"cross_attn.v_proj": 3, "layers.1.self_attn.q_proj": 20},
        },
        {"target_modules": ["q_proj", "condition_embedder", "down_proj"]},
        {"use_dora": True},
        {"use_dora": True, "target_modules": ["q_proj", "condition_embedder", "down_proj"]},
    ],
    ids=["alpha is twice the rank", "rslora", "patterns", "other modules", "dora", "dora on other modules"],
)
def test_a_lora_of_ace_lora_trainer_gives_the_same_output(tmp_path: Path, settings: dict[str, Any]) -> None:
    decoder = make_decoder()
    base = answer(decoder)
    wanted = stock_lora(tmp_path / "final", **settings)
    load_adapter(decoder, tmp_path / "final")
    assert relative(answer(decoder), wanted, base) < 1e-5


@pytest.mark.usefixtures("lycoris_settings")
@pytest.mark.parametrize(
    ("dtype", "settings"),
    [
        (torch.float32, {}),
        (torch.bfloat16, {}),
        (torch.bfloat16, {"linear_dim": 10000, "linear_alpha": 1.0, "factor": -1}),
        (torch.float32, {"linear_dim": 1, "decompose_both": True}),
        (torch.float32, {"use_tucker": True}),
        (torch.float32, {"unbalanced_factorization": True}),
    ],
    ids=["split", "split bf16", "whole", "both split", "tucker", "unbalanced"],
)
def test_a_lokr_of_ace_lora_trainer_on_all_layers_gives_the_same_output(
    tmp_path: Path, dtype: torch.dtype, settings: dict[str, Any]
) -> None:
    decoder = make_decoder()
    base = answer(decoder)
    wanted = stock_lokr(tmp_path / "final", dtype, **settings)
    adapter = load_adapter(decoder, tmp_path / "final")
    assert len({key.rsplit(".", 1)[0] for key in adapter.folded()}) == 30
    assert relative(answer(decoder), wanted, base) < 1e-4
    adapter.remove()
    assert torch.equal(answer(decoder), base)


@pytest.mark.usefixtures("lycoris_settings")
def test_a_lokr_on_all_layers_cannot_continue_training(tmp_path: Path) -> None:
    stock_lokr(tmp_path)
    adapter = inject(make_decoder(), "lokr", LoKRConfig(linear_dim=2, factor=4), "both", False)
    with pytest.raises(AdapterError, match="is not part of this adapter.*and 3[0-9] more"):
        load_weights_into(adapter, tmp_path)


@pytest.mark.usefixtures("lycoris_settings")
def test_a_loha_of_side_step_gives_the_same_output(tmp_path: Path) -> None:
    model = with_original_names(make_decoder())
    base = answer(model)
    LycorisNetwork.apply_preset({"target_name": [r".*(q_proj|k_proj|v_proj|o_proj)$"]})
    network = create_lycoris(model, 1.0, algo="loha", linear_dim=2, linear_alpha=4.0, bypass_mode=True)
    network.apply_to()
    randomise(network)
    network.save_weights(
        str(tmp_path / "loha_weights.safetensors"), torch.float32, {"loha_config": '{"trigger_word": "x"}'}
    )
    decoder = make_decoder()
    load_adapter(decoder, tmp_path)
    assert relative(answer(decoder), answer(model), base) < 1e-5
    stored = read_adapter(tmp_path)
    assert stored.config == OurLoHaConfig(r=2, alpha=4)
    assert stored.metadata.trigger_word == "x"


def test_a_loha_of_peft_gives_the_same_output(tmp_path: Path) -> None:
    decoder = make_decoder()
    base = answer(decoder)
    patterns = {"rank_pattern": {"up_proj": 2}, "alpha_pattern": {"up_proj": 5}}
    settings = LoHaConfig(r=4, alpha=8, target_modules=["q_proj", "up_proj"], **patterns)
    model = get_peft_model(with_original_names(make_decoder()), settings)
    randomise(model)
    model.save_pretrained(tmp_path)
    load_adapter(decoder, tmp_path)
    assert relative(answer(decoder), answer(model), base) < 1e-5


def test_the_config_of_another_trainer_is_inferred(tmp_path: Path) -> None:
    stock_lora(tmp_path, use_dora=True, use_rslora=True, rank_pattern={"cross_attn.v_proj": 2})
    stored = read_adapter(tmp_path)
    others = {f"layers.{n}.cross_attn.v_proj": 2 for n in range(2)}
    assert (stored.kind, stored.config) == ("dora", DoRAConfig(r=4, alpha=8, use_rslora=True, ranks=others))


def test_the_tag_of_ace_lora_trainer_is_found(tmp_path: Path) -> None:
    stock_lora(tmp_path)
    metadata = read_metadata(tmp_path)
    assert (metadata.trigger_word, metadata.tag_position) == ("old", "prepend")
    stored = read_adapter(tmp_path)
    assert stored.config == LoRAConfig(r=4, alpha=8, dropout=0.1)


def test_side_step_files_directly_in_final_are_found(tmp_path: Path) -> None:
    wanted = stock_lora(tmp_path / "run")
    shutil.move(tmp_path / "run" / "adapter", tmp_path / "final")
    decoder = make_decoder()
    load_adapter(decoder, tmp_path / "final")
    torch.testing.assert_close(answer(decoder), wanted)


@every_kind
def test_an_adapter_is_found_by_file_folder_parent_or_run(tmp_path: Path, kind: str, config: AdapterConfig) -> None:
    folder = save(trained(make_decoder(), kind, config), tmp_path / "run" / "final" / "adapter")
    file = next(folder.glob("*.safetensors"))
    for path in (file, folder, folder.parent, tmp_path / "run"):
        assert find_adapter(path) == file


def test_a_run_gives_the_final_adapter_then_the_best_then_the_newest_checkpoint(tmp_path: Path) -> None:
    order = [
        "final",
        "best",
        *(f"checkpoints/epoch_{x}" for x in ("12", "12_step_3", "9_step_11", "9_step_2", "2_loss_0.1")),
    ]
    for name in order:
        folder = tmp_path / name / "adapter"
        folder.mkdir(parents=True)
        (folder / "adapter_model.safetensors").touch()
    (tmp_path / "checkpoints" / "epoch_99").mkdir()
    found = []
    for _ in order:
        folder = find_adapter(tmp_path).parent.parent
        found.append(folder.relative_to(tmp_path).as_posix())
        shutil.rmtree(folder)
    assert found == order
    with pytest.raises(AdapterError, match="holds no adapter"):
        find_adapter(tmp_path)


@pytest.mark.parametrize(("kind", "config"), [("lora", LORA), ("lora", PISSA), ("dora", DORA), ("loha", LOHA)])
def test_a_saved_file_without_its_config_keeps_its_scale(tmp_path: Path, kind: str, config: AdapterConfig) -> None:
    adapter = trained(make_decoder(), kind, config)
    file = save(adapter, tmp_path / "a") / "adapter_model.safetensors"
    shutil.copy(file, tmp_path / "renamed.safetensors")
    stored = read_adapter(tmp_path / "renamed.safetensors")
    assert all(torch.equal(value, adapter.folded()[key]) for key, value in stored.weights.items())
