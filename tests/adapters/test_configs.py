"""The registry of adapter kinds and their configs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from acestep.adapters.base import Adapter
from acestep.adapters.configs import ADAPTERS, DoRAConfig, LoHaConfig, LoKRConfig, LoRAConfig
from acestep.adapters.files import adapter_class
from acestep.core.config import Config, parse
from acestep.core.errors import ConfigError


def test_the_registry_does_not_import_torch() -> None:
    code = (
        "import sys, json; from acestep.adapters.configs import ADAPTERS;"
        "print(json.dumps([ADAPTERS.names, 'torch' in sys.modules]))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, check=True, text=True
    )
    assert json.loads(answer.stdout) == [["lora", "dora", "lokr", "loha"], False]


@pytest.mark.parametrize("name", ADAPTERS.names)
def test_every_kind_has_label_help_and_the_adapter_interface(name: str) -> None:
    entry = ADAPTERS[name]
    assert entry.label
    assert entry.help
    promised = {each for each in vars(Adapter) if not each.startswith("_")}
    assert adapter_class(name).kind == name
    assert promised <= set(dir(adapter_class(name)))


@pytest.mark.parametrize(
    ("config_type", "values", "words"),
    [
        (LoRAConfig, {"r": 0}, "r must be"),
        (LoRAConfig, {"dropout": 0.6}, "dropout must be"),
        (LoRAConfig, {"rank": 8}, "unknown option 'rank'"),
        (LoRAConfig, {"init": "olora"}, "init must be 'default' or 'pissa'"),
        (LoRAConfig, {"ranks": {"q_proj": 0}}, r"ranks.q_proj must be"),
        (DoRAConfig, {"ranks": "{q_proj: 4"}, "ranks must be a JSON object.*'{q_proj: 4'"),
        (DoRAConfig, {"ranks": "[4]"}, "ranks must be a valid dictionary"),
        (LoHaConfig, {"alpha": 0}, "alpha must be"),
        (LoKRConfig, {"factor": -2}, "factor must be"),
        (LoKRConfig, {"linear_alpha": 0.0}, "linear_alpha must be"),
    ],
)
def test_settings_out_of_range_are_rejected(config_type: type[Config], values: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse(config_type, values)


def test_the_slider_ranges_of_ace_lora_trainer_are_valid() -> None:
    for r, alpha, dropout in ((4, 4, 0.0), (256, 512, 0.5)):
        assert LoRAConfig(r=r, alpha=alpha, dropout=dropout).r == r
    for factor, dim, alpha, dropout in ((-1, 1, 0.1, 0.0), (64, 10000, 10.0, 0.5)):
        assert LoKRConfig(factor=factor, linear_dim=dim, linear_alpha=alpha, dropout=dropout).factor == factor


def test_ranks_can_be_json_text() -> None:
    assert parse(LoRAConfig, {"ranks": '{"q_proj": 8, "layers.0.mlp.up_proj": 2}'}).ranks == {
        "q_proj": 8,
        "layers.0.mlp.up_proj": 2,
    }
    assert parse(LoRAConfig, {"ranks": ""}).ranks == {}


@pytest.mark.parametrize(("name", "words"), [("dora", "ComfyUI does not"), ("loha", "not in diffusers")])
def test_the_help_text_names_programs_that_cannot_load_the_files(name: str, words: str) -> None:
    assert words in ADAPTERS[name].help
