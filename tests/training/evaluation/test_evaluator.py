import pytest
import torch

from acestep.core.errors import JobCancelled
from acestep.training.evaluation.evaluator import Evaluator
from acestep.training.flow_matching import FlowMatching
from tests.training.songs import ToyDecoder, make_samples

CPU = torch.device("cpu")
GRID = {"seed": 1, "max_frames": 10, "mu": -0.4, "sigma": 1.0}
SONGS = make_samples([(30, 3), (8, 4), (20, 5)])


def model(dropout=0.0):
    decoder = ToyDecoder()
    decoder.dropout.p = dropout
    return FlowMatching(decoder, torch.zeros(1, 1, 64)).train()


def evaluate(model, *, samples=SONGS, held_out=()):
    return Evaluator(samples, held_out, **GRID).evaluate(model, CPU, stop_if_cancelled=lambda: None)


def test_evaluation_is_repeatable_and_leaves_mode_and_random_state_unchanged():
    dropping = model(dropout=0.5)
    before = torch.get_rng_state()
    assert evaluate(dropping) == evaluate(dropping) == evaluate(model())
    assert torch.equal(torch.get_rng_state(), before)
    assert dropping.training
    assert dropping.network.point.grad is None


def test_the_order_of_the_songs_changes_nothing():
    assert evaluate(model(), samples=SONGS).fit_loss == evaluate(model(), samples=SONGS[::-1]).fit_loss


def test_held_out_samples_are_evaluated_separately():
    both = evaluate(model(), samples=SONGS[:2], held_out=SONGS[2:])
    assert both.fit_loss == evaluate(model(), samples=SONGS[:2]).fit_loss
    assert both.validation_loss == evaluate(model(), samples=SONGS[2:]).fit_loss
    assert evaluate(model()).validation_loss is None


def test_predicting_zero_has_the_zero_prediction_loss():
    silent = model()
    torch.nn.init.zeros_(silent.network.point)
    torch.nn.init.zeros_(silent.network.condition)
    assert Evaluator(SONGS, [], **GRID).zero_loss() == pytest.approx(evaluate(silent).fit_loss)


def test_at_most_eight_samples_per_split_are_evaluated():
    calls = []

    class Counting(FlowMatching):
        def forward(self, batch):
            calls.append(batch.latents.shape)
            return super().forward(batch)

    evaluate(Counting(ToyDecoder(), torch.zeros(1, 1, 64)), samples=make_samples([(8, 2)] * 30))
    assert sum(shape[0] for shape in calls) == 8 * 8


def test_a_stop_takes_effect_between_two_samples():
    asked = []

    def stop():
        asked.append(1)
        if len(asked) == 2:
            raise JobCancelled("stopped")

    measured = model()
    with pytest.raises(JobCancelled):
        Evaluator(SONGS, [], **GRID).evaluate(measured, CPU, stop_if_cancelled=stop)
    assert measured.training
