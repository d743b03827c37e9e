import pytest
import torch
from torch import Tensor

from acestep.training.data import (
    ExampleSampler,
    StepPlan,
    centre_start,
    collate,
    crop_start,
    generator_for,
    move,
    split,
)
from tests.training.songs import make_samples


def draw(**changes):
    facts = {"seed": 1, "max_frames": 0, "mu": -0.4, "sigma": 1.0, "cfg_dropout": 0.0, "weight": lambda t: 1.0}
    return ExampleSampler(**{**facts, **changes})


def test_crops_start_at_even_frames_and_reach_both_ends():
    generator = generator_for("crops")
    starts = {crop_start(21, 10, generator) for _ in range(500)}
    assert starts == {0, 2, 4, 6, 8, 10}
    assert {crop_start(20, 10, generator) for _ in range(500)} == {0, 2, 4, 6, 8, 10}


def test_songs_that_fit_and_crops_of_length_zero_are_left_whole():
    generator = generator_for("crops")
    assert [crop_start(10, 10, generator), crop_start(9, 10, generator), crop_start(9, 0, generator)] == [0, 0, 0]
    [sample] = make_samples([(9, 3)])
    assert draw(max_frames=0)(sample, 0).latents.shape == (9, 64)
    assert draw(max_frames=4)(sample, 0).context.shape == (4, 128)


def test_the_middle_crop_starts_at_an_even_frame():
    assert [centre_start(21, 10), centre_start(20, 10), centre_start(10, 10), centre_start(30, 0)] == [4, 4, 0, 0]


def test_a_sample_gets_the_same_noise_in_any_batch():
    samples = make_samples([(30, 3), (20, 5), (40, 4)])
    chosen = draw(max_frames=16, cfg_dropout=0.5)
    alone = chosen(samples[1], 7)
    together = [chosen(sample, 7) for sample in reversed(samples)][1]
    assert torch.equal(alone.noise, together.noise)
    assert torch.equal(alone.latents, together.latents)
    assert (alone.t, alone.dropped) == (together.t, together.dropped)


def test_epochs_seeds_and_songs_differ_in_what_is_drawn():
    samples = make_samples([(30, 3), (30, 3)])
    times = {draw(seed=seed)(sample, epoch).t for seed in (1, 2) for epoch in (0, 1) for sample in samples}
    assert len(times) == 8


def test_about_the_requested_share_of_conditions_is_dropped():
    samples = make_samples([(4, 2)])
    dropped = [draw(cfg_dropout=0.15)(samples[0], epoch).dropped for epoch in range(2000)]
    assert 0.12 < sum(dropped) / len(dropped) < 0.18
    assert not any(draw(cfg_dropout=0.0)(samples[0], epoch).dropped for epoch in range(200))
    assert all(draw(cfg_dropout=1.0)(samples[0], epoch).dropped for epoch in range(200))


def test_a_batch_is_padded_with_zeros_and_masked():
    batch = collate([draw()(sample, 0) for sample in make_samples([(6, 3), (4, 5)])])
    assert batch.latents.shape == (2, 6, 64)
    assert batch.condition.shape == (2, 5, 64)
    assert batch.frame_mask.tolist() == [[True] * 6, [True] * 4 + [False] * 2]
    assert batch.token_mask.tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    assert not batch.latents[1, 4:].any()
    assert batch.t.dtype == torch.float32


def test_a_batch_without_padding_has_no_masks():
    batch = collate([draw()(sample, 0) for sample in make_samples([(6, 3), (6, 3)])])
    assert batch.frame_mask is None
    assert batch.token_mask is None


def test_an_epoch_takes_every_song_once_and_flushes_the_rest():
    plan = StepPlan(num_samples=7, seed=3, batch_size=2, accumulation=2, epochs=2)
    steps = list(plan.steps())
    assert [[len(b) for b in step.micro_batches] for step in steps] == [[2, 2], [2, 1]] * 2
    assert [step.ends_epoch for step in steps] == [False, True] * 2
    first, second = ([i for s in steps if s.epoch == e for b in s.micro_batches for i in b] for e in (0, 1))
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second
    assert plan.num_steps() == len(steps) == 4


def test_the_number_of_steps_is_the_true_one_with_flushes():
    plan = StepPlan(num_samples=5, seed=0, batch_size=1, accumulation=4, epochs=100)
    assert plan.num_steps() == 200 == len(list(plan.steps()))
    assert StepPlan(num_samples=5, seed=0, batch_size=1, accumulation=4, epochs=100, max_steps=30).num_steps() == 30


def test_a_step_plan_resumes_from_any_step():
    plan = StepPlan(num_samples=7, seed=3, batch_size=2, accumulation=1, epochs=3)
    whole = list(plan.steps())
    epoch = samples = 0
    for done, step in enumerate(whole):
        assert list(plan.steps(epoch, samples)) == whole[done:]
        assert plan.num_steps(epoch, samples, done) == len(whole)
        epoch, samples = (step.epoch + 1, 0) if step.ends_epoch else (step.epoch, samples + step.num_samples)


def test_another_batch_size_continues_with_the_remaining_samples():
    before = StepPlan(num_samples=7, seed=3, batch_size=1, accumulation=4, epochs=2)
    first = next(before.steps())
    after = StepPlan(num_samples=7, seed=3, batch_size=2, accumulation=1, epochs=2)
    rest = [step for step in after.steps(0, first.num_samples) if step.epoch == 0]
    seen = [i for step in (first, *rest) for b in step.micro_batches for i in b]
    assert sorted(seen) == list(range(7))


def test_songs_are_held_out_from_six_on_by_name_and_seed():
    samples = make_samples([(4, 2)] * 13)
    trained, held_out = split(samples, seed=5, percent=15)
    assert (len(trained), len(held_out)) == (11, 2)
    assert not {sample.name for sample in trained} & {sample.name for sample in held_out}
    again = split(list(reversed(samples)), seed=5, percent=15)[1]
    assert {sample.name for sample in again} == {sample.name for sample in held_out}
    assert len(split(samples[:6], seed=5, percent=15)[1]) == 1
    assert split(samples[:5], seed=5, percent=15)[1] == []
    assert split(samples, seed=5, percent=0)[1] == []


def test_the_number_of_songs_held_out_is_limited():
    samples = make_samples([(4, 2)] * 13)
    whole = split(samples, seed=5, percent=50)[1]
    trained, held_out = split(samples, seed=5, percent=50, most=3)
    assert (len(whole), len(trained), len(held_out)) == (6, 10, 3)
    assert {sample.name for sample in held_out} < {sample.name for sample in whole}


@pytest.mark.parametrize(("device", "pinned"), [("cuda", True), ("mps", False), ("xpu", False), ("cpu", False)])
def test_memory_is_pinned_for_copies_to_cuda_only(device, pinned, monkeypatch):
    pins, copies = [], []
    monkeypatch.setattr(Tensor, "pin_memory", lambda part: pins.append(part) or part)
    monkeypatch.setattr(Tensor, "to", lambda part, device, **options: copies.append((device.type, options)) or part)
    move(collate([draw()(sample, 0) for sample in make_samples([(8, 3), (6, 2)])]), torch.device(device))
    assert bool(pins) == pinned
    assert {(kind, *options) for kind, options in copies} == {
        "cuda": {("cuda", "non_blocking")},
        "mps": {("mps",)},
        "xpu": {("xpu",)},
        "cpu": set(),
    }[device]
