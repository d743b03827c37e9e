import math

from acestep.training.state.best_model import BestTracker, first_tracked_epoch


def follow(losses, start=1):
    tracker = BestTracker()
    return tracker, [epoch for epoch, loss in enumerate(losses, 1) if tracker.update(epoch, loss, start=start)]


def test_nothing_is_the_best_before_five_epochs():
    tracker, best = follow([5.0, 4.0, 3.0, 2.0])
    assert best == []
    assert tracker.best is None
    assert tracker.patience == 0


def test_the_best_is_the_lowest_mean_of_five_epochs():
    tracker, best = follow([5.0, 4.0, 3.0, 2.0, 1.0, 0.0, 9.0])
    assert best == [5, 6]
    assert (tracker.best, tracker.best_epoch) == (2.0, 6)
    assert tracker.patience == 1


def test_an_improvement_of_less_than_a_thousandth_does_not_count():
    tracker, best = follow([1.0] * 5 + [0.996])  # the mean falls by 0.0008
    assert best == [5]
    assert tracker.patience == 1


def test_epochs_before_the_first_tracked_one_fill_the_window_but_are_not_the_best():
    tracker, best = follow([1.0] * 9, start=8)
    assert best == [8]
    assert tracker.patience == 1


def test_an_epoch_without_a_loss_is_not_the_best():
    tracker, best = follow([1.0] * 5 + [math.nan])
    assert best == [5]
    assert tracker.patience == 1


def test_best_model_tracking_starts_at_half_of_the_run_at_the_latest():
    assert first_tracked_epoch(200, 100) == 50
    assert first_tracked_epoch(200, 1000) == 200
    assert first_tracked_epoch(0, 100) == 1
    assert first_tracked_epoch(200, 1) == 1


def test_a_tracker_comes_back_from_its_state():
    tracker, _ = follow([5.0, 4.0, 3.0, 2.0, 1.0, 3.0])
    assert BestTracker.from_state(tracker.state()) == tracker
