"""What the program chooses by the memory estimate: gradient checkpointing, and the quantization of the base model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from acestep.adapters.configs import LoRAConfig
from acestep.core import system_memory
from acestep.core.errors import ConfigError, JobCancelled
from acestep.core.events import LogMessage
from acestep.core.files import read_json
from acestep.core.paths import PROJECT
from acestep.training import session as session_module
from acestep.training.configs import TrainingConfig, TrainJob
from acestep.training.memory.automatic import SPARE, Choices, choose
from acestep.training.memory.estimate import GIB, estimate
from acestep.training.memory.free_memory import free_bytes
from acestep.training.memory.spec import FAMILIES, MemorySpec, memory_spec
from acestep.training.trainer import train_job
from tests.training.runs import Unstoppable, make_job, of_kind, run, tensors_for

AUTO = MemorySpec(FAMILIES["2b"], "lora", LoRAConfig(r=64), auto_checkpointing=True)
OLD_GPU = replace(AUTO, base="fp32", compute="fp32", auto_base=True, bf16=False)


def room_for(spec: MemorySpec) -> float:
    """Free bytes in which this run just fits with some to spare."""
    return estimate(spec).total / (1 - SPARE) + 1


def chosen(spec: MemorySpec, free: float | None, **more: Any) -> tuple[int, bool, str]:
    found = choose(spec, free, **more).spec
    return found.checkpoint_every, found.offload, found.base


@pytest.mark.parametrize(("every", "offload"), [(0, False), (8, False), (3, False), (2, False), (1, False), (1, True)])
def test_the_mildest_gradient_checkpointing_that_fits_is_chosen(every: int, offload: bool) -> None:
    whole = replace(AUTO, frames=6000)
    wanted = replace(whole, checkpoint_every=every, offload=offload)
    assert chosen(whole, room_for(wanted)) == (every, offload, "bf16")


def test_a_run_that_fits_with_less_than_a_tenth_to_spare_recomputes_layers() -> None:
    needed = estimate(AUTO).total
    assert chosen(AUTO, needed / 0.9 + 1)[0] == 0
    assert chosen(AUTO, needed / 0.9 - GIB / 100)[0] > 0


def test_the_dataset_is_on_the_device_if_it_fits_beside_everything_else() -> None:
    large = replace(AUTO, dataset_bytes=20 * GIB)
    held = replace(large, dataset_on_device=True)
    assert estimate(held).total == estimate(AUTO).total + 20 * GIB
    assert choose(large, room_for(held)).spec.dataset_on_device
    beside = choose(large, room_for(held) - GIB)
    assert (beside.spec.dataset_on_device, beside.spec.checkpoint_every) == (False, 0)
    assert beside.messages[-1] == "dataset read from its files in advance: its 20.0 GB do not fit beside the run"
    assert not choose(large, None).spec.dataset_on_device
    assert len(choose(replace(large, device="cpu"), 900 * GIB).messages) == 2


def test_the_strongest_choice_is_made_and_reported_where_nothing_fits() -> None:
    found = choose(AUTO, GIB)
    assert (found.spec.checkpoint_every, found.spec.offload) == (1, True)
    assert found.checkpointing_reason.endswith("memory will probably run out")


@pytest.mark.parametrize(("device", "sharded"), [("mps", False), ("cpu", False), ("cuda", True)])
def test_inputs_stay_on_devices_that_share_the_memory_of_the_cpu_and_with_fsdp(device: str, sharded: bool) -> None:
    assert chosen(replace(AUTO, device=device, sharded=sharded), GIB)[:2] == (1, False)


def test_every_layer_is_recomputed_where_the_free_memory_is_unknown() -> None:
    found = choose(AUTO, None)
    assert found.messages[0] == "gradient checkpointing on every layer: the free memory is not known"


def test_each_choice_states_its_reason() -> None:
    off, some = choose(AUTO, 80 * GIB), choose(AUTO, room_for(replace(AUTO, checkpoint_every=2)))
    need = estimate(AUTO).total / GIB
    assert off.messages[0] == f"gradient checkpointing off: {need:.1f} GB of 80.0 GB free"
    assert some.messages[0].startswith("gradient checkpointing on every 2nd layer: ")
    assert some.messages[0].endswith(f", {need:.1f} GB without it")
    assert choose(replace(AUTO, auto_checkpointing=False), GIB).checkpointing_reason == "as requested"


def test_a_base_model_is_quantized_only_where_no_gradient_checkpointing_makes_it_fit() -> None:
    cheapest = replace(OLD_GPU, checkpoint_every=1, offload=True)
    assert chosen(OLD_GPU, room_for(cheapest)) == (1, True, "fp32")
    assert chosen(OLD_GPU, room_for(cheapest) - GIB / 10)[2] == "int8"
    assert chosen(OLD_GPU, room_for(replace(cheapest, base="int8")) - GIB / 10)[2] == "nf4"
    assert "in fp32 the run needs" in choose(OLD_GPU, 7 * GIB).base_reason
    assert choose(OLD_GPU, 7 * GIB).base_precision == "int8"
    assert choose(OLD_GPU, 80 * GIB).base_precision == "auto"


@pytest.mark.parametrize(
    "settings", [{"device": "mps"}, {"sharded": True}, {"adapter": LoRAConfig(init="pissa")}, {"auto_base": False}]
)
def test_a_base_model_stays_exact_where_a_quantized_one_cannot_be_trained(settings: dict[str, Any]) -> None:
    assert chosen(replace(OLD_GPU, **settings), GIB)[2] == "fp32"


def test_a_resumed_run_keeps_the_base_model_that_it_began_with() -> None:
    assert chosen(OLD_GPU, 80 * GIB, recorded_base="nf4")[2] == "nf4"
    assert chosen(OLD_GPU, GIB, recorded_base="auto")[2] == "fp32"


@pytest.mark.parametrize(
    ("settings", "device", "bf16", "expected"),
    [
        ({}, "cuda", True, ("bf16", "bf16", False)),
        ({}, "cuda", False, ("fp32", "fp32", True)),
        ({"base_precision": "nf4"}, "cuda", False, ("fp32", "nf4", False)),
        ({"mixed_precision": "fp32"}, "cuda", False, ("fp32", "fp32", False)),
        ({}, "mps", True, ("fp32", "fp32", False)),
        ({}, "cpu", True, ("fp32", "fp32", False)),
    ],
)
def test_only_a_gpu_without_bf16_leaves_the_base_model_to_the_program(
    settings: dict[str, Any], device: str, bf16: bool, expected: tuple[str, str, bool]
) -> None:
    spec = memory_spec(FAMILIES["2b"], TrainingConfig(**settings), LoRAConfig(), device=device, bf16=bf16)
    assert (spec.compute, spec.base, spec.auto_base) == expected


@pytest.mark.parametrize(
    ("value", "every", "offload", "auto"),
    [("auto", 0, False, True), ("off", 0, False, False), ("on", 3, False, False), ("offload", 1, True, False)],
)
def test_the_setting_becomes_the_run_that_is_estimated(value: str, every: int, offload: bool, auto: bool) -> None:
    training = TrainingConfig.model_validate({"gradient_checkpointing": value, "gradient_checkpointing_every": 3})
    spec = memory_spec(FAMILIES["2b"], training, LoRAConfig())
    assert (spec.checkpoint_every, spec.offload, spec.auto_checkpointing) == (every, offload, auto)


@pytest.mark.parametrize(
    ("old", "now"), [(True, "on"), (False, "off"), ("true", "on"), ("False", "off"), ("0", "off"), ("auto", "auto")]
)
def test_true_and_false_of_earlier_versions_are_read(old: Any, now: str) -> None:
    assert TrainingConfig.model_validate({"gradient_checkpointing": old}).gradient_checkpointing == now


def test_other_values_are_rejected() -> None:
    with pytest.raises(ValueError, match="offload"):
        TrainingConfig.model_validate({"gradient_checkpointing": "sometimes"})


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    return tensors_for(tmp_path_factory.mktemp("automatic"), tiny_checkpoint)


def state_of(out: Path, epoch: int) -> bytes:
    return (out / "checkpoints" / f"epoch_{epoch}" / "state" / "state.safetensors").read_bytes()


def test_losses_and_weights_are_the_same_with_any_gradient_checkpointing(
    songs: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    found = []
    for value, every in (("off", 1), ("on", 2), ("on", 1), ("offload", 1)):
        out = tmp_path / f"{value}_{every}"
        settings = {"gradient_checkpointing": value, "gradient_checkpointing_every": every, "lora.dropout": 0.3}
        job = make_job(songs, tiny_checkpoint, out, attention_type="both", max_epochs=2, **settings)
        result, _ = run(job)
        found.append((result["fit_loss"], state_of(out, 2)))
    assert all(each == found[0] for each in found)


def run_in_two_parts(job: Callable[[str | None], TrainJob]) -> list[list[str]]:
    """Run and stop, then resume to the end; gives the log of both parts."""
    asked: list[int] = []

    def stop_soon() -> bool:
        asked.append(1)
        return len(asked) > 12

    log = []
    for resume, stop in ((None, stop_soon), ("auto", lambda: False)):
        started = job(resume)
        context = Unstoppable(started.out, stop)
        with nullcontext() if resume else pytest.raises(JobCancelled):
            train_job(started, context)
        log.append([event.message for event in of_kind(context.events, LogMessage)])  # type: ignore[attr-defined]
    return log


def test_the_choice_is_logged_and_recorded_and_may_differ_when_the_run_resumes(
    songs: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = make_job(songs, tiny_checkpoint, tmp_path / "unbroken", gradient_checkpointing="off")
    run(unbroken)
    free: dict[str | None, float | None] = {None: 80 * GIB, "auto": None}

    def job(resume: str | None) -> TrainJob:
        monkeypatch.setattr(session_module, "free_bytes", lambda device, processes: free[resume])
        return make_job(songs, tiny_checkpoint, tmp_path / "run", resume=resume)

    first, second = run_in_two_parts(job)
    assert any(line.startswith("gradient checkpointing off: ") for line in first)
    assert any(line.startswith("gradient checkpointing on every layer: ") for line in second)
    record = read_json(tmp_path / "run" / "training.json", error=ConfigError)
    assert record["automatic"]["gradient_checkpointing"] == "on every layer"
    assert record["settings"]["training"]["gradient_checkpointing"] == "auto"
    assert state_of(tmp_path / "run", 4) == state_of(unbroken.out, 4)


def test_an_automatically_quantized_run_resumes_exactly_on_a_computer_that_would_not_quantize(
    songs: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    explicit = make_job(songs, tiny_checkpoint, tmp_path / "explicit", base_precision="int8")
    run(explicit)

    def job(resume: str | None) -> TrainJob:
        def on_an_old_gpu(spec: MemorySpec, free: float | None, **more: Any) -> Choices:
            """The tests run on a CPU; there is too little memory for fp32 until the run resumes."""
            small = replace(spec, auto_base=True, base="int8", checkpoint_every=1)
            return choose(replace(spec, auto_base=True), 80 * GIB if resume else room_for(small), **more)

        monkeypatch.setattr(session_module, "choose", on_an_old_gpu)
        return make_job(songs, tiny_checkpoint, tmp_path / "run", resume=resume)

    first, second = run_in_two_parts(job)
    assert any(line.startswith("base model in int8: in fp32 the run needs ") for line in first)
    assert "base model in int8: as when the run began" in second
    record = read_json(tmp_path / "run" / "training.json", error=ConfigError)
    assert record["automatic"]["base_precision"] == "int8"
    assert record["settings"]["training"]["base_precision"] == "auto"
    assert state_of(tmp_path / "run", 4) == state_of(explicit.out, 4)


def test_the_free_memory_of_a_gpu_counts_what_pytorch_has_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"mem_get_info": (100, 1000), "memory_reserved": 70, "memory_allocated": 30}
    for name, value in {**values, "get_per_process_memory_fraction": 1.0}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert free_bytes(torch.device("cuda:1")) == 140
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 0.1)
    assert free_bytes(torch.device("cuda:1")) == 70


def test_processes_share_the_memory_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_memory, "free_bytes", lambda: 1000)
    assert [free_bytes(torch.device(name), 4) for name in ("cpu", "mps")] == [250, 1000]
    monkeypatch.setattr(system_memory, "free_bytes", lambda: None)
    assert free_bytes(torch.device("cpu")) is None


VM_STAT = """Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               10.
Pages active:                           5000.
Pages inactive:                           20.
Pages speculative:                         3.
Pages purgeable:                           4.
"""


@pytest.mark.parametrize(("printed", "pages"), [(VM_STAT, 37), ("", None)])
def test_the_free_memory_of_a_mac_is_read(monkeypatch: pytest.MonkeyPatch, printed: str, pages: int | None) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    done = subprocess.CompletedProcess([], 0, stdout=printed)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    assert system_memory.free_bytes() == (None if pages is None else pages * 16384)


def test_the_choice_needs_no_torch() -> None:
    code = "import sys, acestep.training.memory.automatic; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, stdin=subprocess.DEVNULL).returncode == 0
