import os
from pathlib import Path

import pytest

from acestep.core.errors import TrainingError
from acestep.core.files import replace_folder
from acestep.training.state.run_folder import RunFolder, checkpoint_name, find_resume_source


def save(run: RunFolder, name: str, *, state: bool = True) -> Path:
    with replace_folder(run.checkpoints / name) as folder:
        (folder / "adapter").mkdir()
        if state:
            (folder / "state").mkdir()
    return run.checkpoints / name


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


def test_names_distinguish_epoch_ends_from_saves_within_an_epoch():
    assert checkpoint_name(3, 41, ends_epoch=True) == "epoch_3"
    assert checkpoint_name(3, 41, ends_epoch=False) == "epoch_4_step_41"


def test_checkpoints_are_ordered_by_number_not_by_letter(run):
    names = ["epoch_10", "epoch_9", "epoch_10_step_95", "epoch_11_step_101", "epoch_2_loss_0.4321"]
    for name in names:
        save(run, name)
    (run.checkpoints / "other").mkdir()
    assert [folder.name for folder in run.saved()] == [
        "epoch_2_loss_0.4321",
        "epoch_9",
        "epoch_10_step_95",
        "epoch_10",
        "epoch_11_step_101",
    ]


def test_a_new_run_is_rejected_in_the_folder_of_another(run):
    assert find_resume_source(None, run) is None
    (run.root / "logs").mkdir(parents=True)  # what a run that never saved leaves
    assert find_resume_source(None, run) is None
    save(run, "epoch_1")
    with pytest.raises(TrainingError, match="already holds a run") as error:
        find_resume_source(None, run)
    assert "auto" in error.value.hint


def test_auto_starts_in_an_empty_folder_and_resumes_an_existing_run(run):
    assert find_resume_source("auto", run) is None
    save(run, "epoch_1")
    latest_checkpoint = save(run, "epoch_2")
    source = find_resume_source("auto", run)
    assert (source.folder, source.exact, source.epochs) == (latest_checkpoint, True, 2)


def test_auto_resumes_from_what_was_saved_last(run):
    for name in ("epoch_1", "epoch_2", "epoch_3"):
        run.mark_latest(save(run, name))
    assert find_resume_source(str(run.checkpoints / "epoch_1"), run).epochs == 1
    run.mark_latest(save(run, "epoch_2_step_9"))
    assert find_resume_source("auto", run).folder.name == "epoch_2_step_9"


def test_a_checkpoint_with_training_state_is_preferred(run):
    save(run, "epoch_3", state=False)
    save(run, "epoch_2")
    assert find_resume_source("auto", run).folder.name == "epoch_2"


def test_a_run_without_training_state_resumes_from_its_weights(run):
    save(run, "epoch_3_loss_0.5", state=False)
    source = find_resume_source("auto", run)
    assert (source.exact, source.epochs) == (False, 3)
    assert find_resume_source(str(run.checkpoints / "epoch_3_loss_0.5" / "adapter"), run).epochs == 3


def test_only_whole_epochs_count_as_behind_a_save_between_two(run):
    save(run, "epoch_4_step_41", state=False)
    assert find_resume_source("auto", run).epochs == 3


def test_a_run_without_checkpoints_resumes_from_the_best_adapter(run):
    (run.best / "adapter").mkdir(parents=True)
    assert find_resume_source("auto", run).folder == run.best


def test_a_kill_between_the_two_moves_of_a_save_loses_nothing(run):
    save(run, "epoch_1")
    os.replace(run.checkpoints / "epoch_1", run.checkpoints / ".epoch_1.old")
    (run.checkpoints / ".epoch_2.tmp" / "state").mkdir(parents=True)
    assert find_resume_source("auto", run).folder.name == "epoch_1"
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["epoch_1"]


def test_a_path_may_be_a_run_a_checkpoint_or_the_adapter_in_it(run, tmp_path):
    folder = save(run, "epoch_2")
    new = RunFolder(tmp_path / "new")
    for path in (run.root, folder, folder / "adapter"):
        source = find_resume_source(str(path), new)
        assert (source.folder, source.exact) == (folder, True)


def test_a_path_from_elsewhere_does_not_mix_with_a_run_that_is_there(run, tmp_path):
    other = RunFolder(tmp_path / "other")
    save(other, "epoch_1")
    save(run, "epoch_1")
    with pytest.raises(TrainingError, match="already holds a run"):
        find_resume_source(str(other.root), run)


def test_a_path_that_does_not_exist_is_rejected(run, tmp_path):
    with pytest.raises(TrainingError, match="nothing to resume from"):
        find_resume_source(str(tmp_path / "missing"), run)
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    with pytest.raises(TrainingError, match="saved nothing"):
        find_resume_source(str(tmp_path / "empty"), run)
