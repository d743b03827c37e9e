"""The loop on a toy decoder, with the true Fabric."""

import math

import pytest
import torch

from acestep.core.errors import JobCancelled, LossNotFinite
from acestep.training.data import ExampleSampler, StepPlan, TrainingStep, collate
from acestep.training.distributed.placement import make_fabric
from acestep.training.flow_matching import FlowMatching
from acestep.training.loop import Progress, train
from acestep.training.state.random_state import RandomState, seeded_generators
from tests.training.songs import ToyDecoder, make_samples

CPU = torch.device("cpu")
DRAW = ExampleSampler(seed=1, max_frames=8, mu=-0.4, sigma=1.0, cfg_dropout=0.2, weight=lambda t: 1.0)


class Rig:
    """A run of the loop; ``spoil`` and ``stop_after`` make trouble."""

    def __init__(self, *, num_samples=5, batch_size=1, accumulation=1, epochs=1, dtype=torch.float32, **settings):
        self.samples = make_samples([(6 + 2 * i, 2 + i) for i in range(num_samples)])
        plan = StepPlan(num_samples, seed=4, batch_size=batch_size, accumulation=accumulation, epochs=epochs)
        self.steps = list(plan.steps())
        self.fabric = make_fabric(CPU, dtype)
        self.decoder = ToyDecoder()
        self.decoder.dropout.p = settings.pop("dropout", 0.0)
        plain = torch.optim.SGD(self.decoder.parameters(), lr=0.0)
        self.model, self.optimizer = self.fabric.setup(FlowMatching(self.decoder, torch.zeros(1, 1, 64)), plain)
        self.progress, self.random = Progress(), RandomState(CPU)
        self.reports, self.weights, self.condition = [], [], []
        self.spoil = settings.pop("spoil", lambda sample, epoch: 1.0)
        self.stop_after = settings.pop("stop_after", None)
        self.asked = 0
        self.limits = {"max_grad_norm": 1e9, "max_not_finite": 10, **settings}

    def make_batch(self, samples, epoch):
        batch = collate([DRAW(self.samples[i], epoch) for i in samples])
        return batch._replace(weight=torch.tensor([self.spoil(i, epoch) for i in samples]))

    def stop_if_cancelled(self):
        self.asked += 1
        if self.stop_after is not None and self.asked > self.stop_after:
            raise JobCancelled("stopped")

    def after_step(self, report):
        self.reports.append(report)
        self.weights.append(self.decoder.point.detach().clone())
        self.condition.append(self.decoder.condition.detach().clone())
        return False

    def run(self):
        train(
            fabric=self.fabric,
            model=self.model,
            optimizer=self.optimizer,
            lr_at=lambda step: 0.1,
            steps=self.steps,
            make_batch=self.make_batch,
            progress=self.progress,
            random=self.random,
            callback=self,
            stop_if_cancelled=self.stop_if_cancelled,
            **self.limits,
        )
        return self


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_a_batch_of_three_updates_the_weights_like_three_single_samples():
    at_once, one_by_one, mixed = (
        Rig(num_samples=3, batch_size=b, accumulation=a).run() for b, a in ((3, 1), (1, 3), (2, 2))
    )
    close(at_once.decoder.point, one_by_one.decoder.point)
    close(at_once.decoder.condition, one_by_one.decoder.condition)
    close(at_once.decoder.point, mixed.decoder.point)
    assert at_once.reports[0].loss == pytest.approx(one_by_one.reports[0].loss, rel=1e-5)
    assert at_once.reports[0].grad_norm == pytest.approx(one_by_one.reports[0].grad_norm, rel=1e-5)


def test_the_remaining_samples_of_an_epoch_take_a_full_step():
    flushed = Rig(num_samples=5, accumulation=4).run()
    *_, left_over = flushed.steps
    alone = Rig(num_samples=5)
    alone.decoder.point.data.copy_(flushed.weights[0])
    alone.decoder.condition.data.copy_(flushed.condition[0])
    alone.steps = [TrainingStep(left_over.epoch, left_over.micro_batches, ends_epoch=True)]
    alone.run()
    assert left_over.num_samples == 1
    close(flushed.decoder.point, alone.decoder.point)


def test_gradients_are_clipped_and_the_original_norm_is_reported():
    free, cut = Rig(num_samples=1).run(), Rig(num_samples=1, max_grad_norm=0.01).run()
    assert free.reports[0].grad_norm == pytest.approx(cut.reports[0].grad_norm)
    start = ToyDecoder()
    far, near = ((rig.decoder.point - start.point).norm().item() for rig in (free, cut))
    assert near < far
    assert near <= 0.1 * 0.01 + 1e-6


def test_a_sample_with_a_non_finite_loss_is_dropped_from_its_step():
    spoilt = Rig(num_samples=4, batch_size=2, accumulation=2, spoil=lambda i, e: math.nan if i == 1 else 1.0).run()
    fair = Rig(num_samples=4, accumulation=4)
    fair.steps = [TrainingStep(0, [batch for batch in fair.steps[0].micro_batches if batch != [1]], ends_epoch=True)]
    fair.run()
    close(spoilt.decoder.point, fair.decoder.point)
    assert spoilt.progress.not_finite == 1
    assert spoilt.progress.not_finite_in_a_row == 0
    assert spoilt.reports[0].loss == pytest.approx(fair.reports[0].loss, rel=1e-5)


def test_a_step_without_finite_samples_changes_no_weight_and_training_continues():
    rig = Rig(num_samples=2, epochs=2, spoil=lambda i, epoch: math.inf if epoch == 0 else 1.0).run()
    assert torch.equal(rig.weights[1], ToyDecoder().point)
    assert not torch.equal(rig.weights[3], rig.weights[1])
    assert math.isnan(rig.reports[0].loss)
    assert math.isnan(rig.progress.epoch_losses[0])
    assert math.isfinite(rig.progress.epoch_losses[1])
    assert rig.progress.step == 4


def test_too_many_non_finite_losses_end_the_run_with_unchanged_weights():
    rig = Rig(num_samples=3, epochs=9, max_not_finite=4, spoil=lambda i, epoch: math.nan if epoch else 1.0)
    with pytest.raises(LossNotFinite, match=r"4 times in a row \(4 in total\), last in epoch 3, step 7") as error:
        rig.run()
    assert "learning rate" in error.value.hint
    assert "fp32" not in error.value.hint
    assert torch.equal(rig.decoder.point, rig.weights[2])
    assert rig.progress.between_steps


@pytest.mark.parametrize(
    ("dtype", "cause"), [(torch.float16, "likely cause is fp16"), (torch.bfloat16, "does not help")]
)
def test_an_error_about_losses_in_half_precision_proposes_fp32(dtype, cause):
    rig = Rig(num_samples=1, epochs=2, max_not_finite=2, dtype=dtype, spoil=lambda i, epoch: math.nan)
    rig.limits["dtype"] = dtype
    with pytest.raises(LossNotFinite) as error:
        rig.run()
    assert cause in error.value.hint
    assert "--set mixed_precision=fp32" in error.value.hint
    assert error.value.subject == ("fp16" if dtype == torch.float16 else "")


def test_a_finite_step_resets_the_count_and_zero_never_ends_a_run():
    one_in_three = Rig(num_samples=3, epochs=9, max_not_finite=3, spoil=lambda i, e: math.nan if i == 1 else 1.0).run()
    assert one_in_three.progress.not_finite == 9
    assert Rig(num_samples=2, epochs=9, max_not_finite=0, spoil=lambda i, e: math.nan).run().progress.step == 18


def test_a_gradient_that_is_not_finite_never_reaches_the_weights():
    rig = Rig(num_samples=2, epochs=1)
    rig.decoder.point.register_hook(lambda gradient: gradient * math.inf)
    rig.run()
    assert torch.equal(rig.decoder.point, ToyDecoder().point)
    assert torch.equal(rig.decoder.condition, ToyDecoder().condition)
    assert rig.progress.not_finite == 2
    again = Rig(num_samples=2, epochs=9, max_not_finite=3)
    again.decoder.point.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(LossNotFinite):
        again.run()


def test_an_overflow_of_the_loss_scale_skips_no_step():
    rig = Rig(num_samples=2, dtype=torch.float16)
    scaler = rig.fabric.strategy.precision.scaler
    scaler._init_scale = 2.0**40
    rig.run()
    assert rig.progress.not_finite == 0
    assert [math.isfinite(report.loss) for report in rig.reports] == [True, True]
    assert not torch.equal(rig.decoder.point, ToyDecoder().point)
    assert scaler.get_scale() < 2.0**40


def test_a_stop_during_accumulation_leaves_the_state_of_the_last_step():
    rig = Rig(num_samples=6, accumulation=3, stop_after=4, dropout=0.3)
    with seeded_generators(0, CPU):
        with pytest.raises(JobCancelled):
            rig.run()
        captured = rig.random.captured["cpu"]
        whole = Rig(num_samples=6, accumulation=3, stop_after=3, dropout=0.3)
        torch.manual_seed(0)
        whole.random.capture()
        with pytest.raises(JobCancelled):
            whole.run()
    assert rig.progress == whole.progress
    assert rig.progress.step == 1
    assert rig.progress.samples_done == 3
    assert torch.equal(rig.decoder.point, whole.decoder.point)
    assert torch.equal(captured, whole.random.captured["cpu"])


def test_an_epochs_loss_is_the_mean_over_its_songs_whatever_the_batches():
    losses = [
        Rig(num_samples=5, batch_size=b, accumulation=a).run().progress.epoch_losses
        for b, a in ((5, 1), (1, 5), (2, 3))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] == pytest.approx(losses[2], rel=1e-5)


def test_the_global_generators_are_as_before_after_a_seeded_block():
    before = torch.get_rng_state()
    with seeded_generators(5, CPU):
        one = torch.rand(3)
    with seeded_generators(5, CPU):
        assert torch.equal(torch.rand(3), one)
    assert torch.equal(torch.get_rng_state(), before)
