import warnings

import pytest
import torch
from torch.optim import lr_scheduler as torch_schedules

from acestep.core.errors import UnknownName
from acestep.training.optim.schedules import FLOOR, SCHEDULES, make_schedule

TOTAL, WARMUP, PEAK = 97, 9, 1e-4


def torch_equivalent(name, optimizer, length):
    floor = FLOOR * PEAK
    if name == "cosine":
        return torch_schedules.CosineAnnealingLR(optimizer, T_max=length, eta_min=floor)
    if name == "cosine_restarts":
        return torch_schedules.CosineAnnealingWarmRestarts(optimizer, T_0=length // 4, T_mult=2, eta_min=floor)
    if name == "linear":
        return torch_schedules.LinearLR(optimizer, 1.0, 0.01, total_iters=length)
    return torch_schedules.ConstantLR(optimizer, 1.0)


@pytest.mark.parametrize("name", SCHEDULES.names)
def test_each_schedule_equals_torchs_own_after_a_linear_warm_up(name):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    warmup = torch_schedules.LinearLR(optimizer, 0.1, 1.0, total_iters=WARMUP)
    main = torch_equivalent(name, optimizer, TOTAL - WARMUP)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's SequentialLR uses what torch deprecates
        sequence = torch_schedules.SequentialLR(optimizer, [warmup, main], milestones=[WARMUP])
        wanted = []
        for _ in range(TOTAL):
            wanted.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            sequence.step()
    schedule = make_schedule(name, total_steps=TOTAL, warmup_steps=WARMUP)
    assert [PEAK * schedule(step) for step in range(TOTAL)] == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("name", SCHEDULES.names)
@pytest.mark.parametrize("total", [1, 2, 7, 200])
def test_each_schedule_stays_between_its_floor_and_the_peak_for_any_length(name, total):
    schedule = make_schedule(name, total_steps=total, warmup_steps=100)
    shares = [schedule(step) for step in range(total + 1)]
    assert all(FLOOR - 1e-12 <= share <= 1 for share in shares)
    assert max(shares) == 1


@pytest.mark.parametrize(("name", "end"), [("cosine", FLOOR), ("linear", FLOOR), ("constant", 1.0)])
def test_a_schedule_ends_at_its_final_value_and_does_not_rise_again(name, end):
    schedule = make_schedule(name, total_steps=200, warmup_steps=0)
    assert schedule(200) == pytest.approx(end)
    assert schedule(250) == pytest.approx(end)
    assert schedule(0) == 1


def test_warm_up_takes_at_most_a_tenth_of_the_run():
    assert make_schedule("cosine", total_steps=40, warmup_steps=100).warmup_steps == 4
    assert make_schedule("cosine", total_steps=4000, warmup_steps=100).warmup_steps == 100
    assert make_schedule("cosine", total_steps=5, warmup_steps=100).warmup_steps == 1
    assert make_schedule("cosine", total_steps=40, warmup_steps=0)(0) == 1


def test_an_unknown_schedule_is_rejected_with_the_nearest_name():
    with pytest.raises(UnknownName, match="cosin") as error:
        make_schedule("cosin", total_steps=10, warmup_steps=0)
    assert "cosine" in error.value.hint
