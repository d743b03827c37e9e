"""Every kind of adapter over every kind of base, every optimizer and every schedule: learn, stop, go on, the same.

The combinations come from the registries: a new entry is tested by being there.
"""

import functools
import itertools

import pytest
import torch
from safetensors.torch import load_file

from acestep.adapters.configs import ADAPTERS
from acestep.core.errors import JobCancelled
from acestep.training.optim.optimizers import OPTIMIZERS
from acestep.training.optim.schedules import SCHEDULES
from acestep.training.state.run_folder import RunFolder
from tests.training.runs import make_job, run, tensors_for
from tests.training.test_resume import assert_same_end

BASES = {
    "fp32": {"mixed_precision": "fp32"},
    "bf16": {"mixed_precision": "bf16"},
    "int8": {"base_precision": "int8"},
    "nf4": {"base_precision": "nf4"},
}


@pytest.fixture(scope="module")
def tensors(tmp_path_factory, tiny_checkpoint):
    return tensors_for(tmp_path_factory.mktemp("tensors"), tiny_checkpoint, [(20, 6), (16, 5)])


def check(tensors, checkpoint, folder, **settings):
    """Train without a break, and with one: the weights move at each save, and both end the same."""
    settings = {"max_epochs": 3, "gradient_accumulation_steps": 1, "save_every_n_steps": 3, **settings}
    whole = make_job(tensors, checkpoint, folder / "whole", **settings)
    run(whole)
    states = [load_file(saved / "state" / "state.safetensors") for saved in RunFolder(whole.out).saved()]
    weights = [key for key in states[0] if key.startswith("adapter.") and not key.endswith(".start")]
    assert len(states) > 1
    for before, after in itertools.pairwise(states):
        assert any(not torch.equal(before[key], after[key]) for key in weights)
    broken = make_job(tensors, checkpoint, folder / "broken", **settings)
    with pytest.raises(JobCancelled):
        run(broken, stop_when=(broken.out / "checkpoints").exists)
    broken.resume = "auto"
    run(broken)
    assert_same_end(whole.out, broken.out)


@pytest.fixture
def stopped_run_equals_unbroken(tensors, tiny_checkpoint, tmp_path):
    return functools.partial(check, tensors, tiny_checkpoint, tmp_path)


@pytest.mark.parametrize(("kind", "base"), list(itertools.product(ADAPTERS.names, BASES)))
def test_every_adapter_trains_over_every_base_precision_and_resumes_exactly(kind, base, stopped_run_equals_unbroken):
    stopped_run_equals_unbroken(adapter_type=kind, **BASES[base])


def pairs():
    """Every optimizer and every schedule at least once; ``dev.full_matrix`` runs all combinations."""
    optimizers, schedules = OPTIMIZERS.names, SCHEDULES.names
    for number in range(max(len(optimizers), len(schedules))):
        yield optimizers[number % len(optimizers)], schedules[number % len(schedules)]


@pytest.mark.parametrize(("optimizer", "schedule"), list(pairs()))
def test_every_optimizer_and_every_schedule_resumes_exactly(optimizer, schedule, stopped_run_equals_unbroken):
    stopped_run_equals_unbroken(adapter_type="lora", optimizer_type=optimizer, scheduler_type=schedule)
