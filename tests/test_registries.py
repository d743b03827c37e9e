"""An implementation registered at run time works wherever a built-in one does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from acestep.adapters.base import StoredAdapter, write_tensors
from acestep.adapters.configs import ADAPTERS, LoRAConfig
from acestep.adapters.files import read_adapter
from acestep.adapters.lora import LoRAAdapter
from acestep.adapters.metadata import AdapterMetadata
from acestep.cli.app import app
from acestep.core.config import fields, groups, option, parse
from acestep.core.errors import ConfigError
from acestep.core.registry import Registry
from acestep.models.weight_shapes import DEFAULTS
from acestep.training.configs import TrainingConfig, TrainJob
from acestep.training.memory.advice import advise
from acestep.training.memory.estimate import estimate
from acestep.training.memory.spec import MemorySpec
from acestep.training.optim.loss_weightings import LOSS_WEIGHTS
from acestep.training.optim.optimizers import OPTIMIZERS
from acestep.training.optim.schedules import SCHEDULES
from acestep.training.presets import read_preset
from acestep.ui.form import Form
from acestep.ui.settings import SavedFields
from tests.training.runs import make_job, run, tensors_for

HERE = "tests.test_registries"
CHOICES = {
    "optimizer_type": OPTIMIZERS,
    "scheduler_type": SCHEDULES,
    "loss_weighting": LOSS_WEIGHTS,
    "adapter_type": ADAPTERS,
}


class ToyConfig(LoRAConfig):
    """Settings of the toy adapter: those of LoRA and one more."""

    r: int = option(2, "Rank", "Rank of the toy.", ge=1)
    wheels: int = option(4, "Wheels", "Number of wheels of the toy.", ge=1)


class ToyAdapter(LoRAAdapter):
    """A LoRA in a file of its own."""

    kind = "toy"
    config_type = ToyConfig

    @classmethod
    def matches(cls, keys: list[str]) -> bool:
        return any(key.startswith("toy.") for key in keys)

    @classmethod
    def read(cls, file: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> StoredAdapter:
        weights = {key.removeprefix("toy.").replace("toy_", "lora_"): value.float() for key, value in tensors.items()}
        return StoredAdapter(file, cls.kind, ToyConfig(), weights, AdapterMetadata.from_file_metadata(metadata))

    @classmethod
    def write(cls, folder, weights, config, metadata, dtype) -> None:
        tensors = {f"toy.{key.replace('lora_', 'toy_')}": value.to(dtype) for key, value in weights.items()}
        metadata = metadata.with_config(cls.kind, config.model_dump())
        write_tensors(folder / "toy.safetensors", tensors, metadata.to_file_metadata())


steps = []


def toy_optimizer(parameters: list, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    steps.append("optimizer")
    return torch.optim.SGD(parameters, lr=lr)


def toy_schedule(step: int, length: int) -> float:
    steps.append("schedule")
    return 0.5


def toy_weight(t: float, gamma: float) -> float:
    steps.append("weight")
    return 2.0


@pytest.fixture
def toys() -> Iterator[None]:
    """Registers one of each, without stating memory."""
    added: list[tuple[Registry, str]] = []

    def add(registry: Registry, target: str, **facts: object) -> None:
        registry.register("toy", target=f"{HERE}:{target}", label="Toy box", help="For tests.", **facts)
        added.append((registry, "toy"))

    steps.clear()
    try:
        add(OPTIMIZERS, "toy_optimizer")
        add(SCHEDULES, "toy_schedule")
        add(LOSS_WEIGHTS, "toy_weight")
        add(ADAPTERS, "ToyAdapter", config=ToyConfig, files=("toy.safetensors",))
        yield
    finally:
        for registry, name in added:
            registry.unregister(name)
    assert "toy" not in groups(TrainJob)
    for field, registry in CHOICES.items():
        assert "toy" not in registry
        with pytest.raises(ConfigError, match="'toy'"):
            parse(TrainingConfig, {field: "toy"})


@pytest.fixture
def spec() -> MemorySpec:
    return MemorySpec(config=DEFAULTS, kind="lora", adapter=LoRAConfig())


def test_the_memory_estimate_names_the_parts_that_it_does_not_know(toys, spec):
    known = estimate(spec)
    unknown = estimate(replace(spec, optimizer="toy"))
    assert (known.unknown, unknown.unknown) == ((), ("optimizer", "working"))
    assert known.parts["optimizer"] > unknown.parts["optimizer"] == 0
    assert known.parts["adapter"] == unknown.parts["adapter"]
    adapter = estimate(replace(spec, kind="toy", adapter=ToyConfig()))
    assert {"adapter", "optimizer", "gradients", "activations"} <= set(adapter.unknown)
    assert adapter.parts["model"] == known.parts["model"]
    assert advise(replace(spec, optimizer="toy"), free=1.0)
    assert advise(replace(spec, kind="toy", adapter=ToyConfig()), free=1.0)


def test_an_optimizer_that_states_its_memory_is_estimated(spec):
    OPTIMIZERS.register(
        "sized",
        target=f"{HERE}:toy_optimizer",
        label="Sized",
        state_bytes=lambda weights: 123,
        step_bytes=lambda weights, device: 0,
    )
    try:
        found = estimate(replace(spec, optimizer="sized"))
    finally:
        OPTIMIZERS.unregister("sized")
    assert (found.parts["optimizer"], found.unknown) == (123, ())


def test_the_page_offers_it(toys):
    saved = SavedFields({})
    with gr.Blocks():
        form = Form(TrainingConfig, "training", saved)
        form.place_rest()
        toy = Form(groups(TrainJob)["toy"], "toy", saved)
        toy.place_rest()
    for name in CHOICES:
        assert ("Toy box", "toy") in form.component(name).choices
        assert form.problem(name, "toy") == ""
    assert toy.component("wheels").value == 4


def test_the_command_line_and_the_settings_table_list_it(toys):
    for name in CHOICES:
        shown = CliRunner().invoke(app, ["settings", name])
        assert shown.exit_code == 0
        assert "toy" in shown.output.rpartition("(")[2]
    table = CliRunner().invoke(app, ["settings", "--markdown"]).output
    assert "## Toy box" in table
    assert "`toy.wheels`" in table


def test_a_job_keeps_its_settings_in_a_group_of_its_own(toys, tmp_path):
    values = {"tensor_dir": tmp_path, "checkpoint": "x", "out": tmp_path, "toy": {"wheels": 3}}
    saved = parse(TrainJob, values).model_dump(mode="json")
    assert saved["toy"]["wheels"] == 3
    assert list(saved)[-1] == "samples"
    assert {"lora", "dora", "lokr", "loha"} < set(saved)
    assert parse(TrainJob, saved).toy.wheels == 3
    with pytest.raises(ConfigError, match="toy.wheels must be greater than or equal to 1, got 0"):
        parse(TrainJob, {**values, "toy": {"wheels": 0}})


def test_a_preset_can_set_it(toys, tmp_path):
    file = tmp_path / "mine.json"
    file.write_text('{"optimizer_type": "toy", "toy_wheels": 3}')
    assert read_preset(file, "toy").settings == {"training.optimizer_type": "toy", "toy.wheels": 3}


def test_a_run_trains_with_it_and_its_adapter_is_found(toys, tiny_checkpoint, tmp_path):
    tensors = tensors_for(tmp_path / "tensors", tiny_checkpoint, [(24, 5), (17, 7)])
    chosen = {f"training__{name}": "toy" for name in CHOICES}
    job = make_job(tensors, tiny_checkpoint, tmp_path / "run", max_steps=2, toy__r=2, **chosen)
    run(job)
    assert {"optimizer", "schedule", "weight"} == set(steps)
    stored = read_adapter(job.out)
    assert (stored.kind, stored.file.name) == ("toy", "toy.safetensors")
    assert any(tensor.abs().sum() > 0 for key, tensor in load_file(stored.file).items() if "toy_B" in key)
    assert fields(type(job.adapter)).keys() >= {"wheels"}
