"""What must hold of a folder after any fault: every file whole, the newest save loads, nothing half written counts."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open

from acestep.adapters.files import read_adapter
from acestep.core.event_log import EventLog
from acestep.core.events import Saved, Started, StepLogged
from acestep.tensors.manifest import list_tensor_files, read_manifest
from acestep.training.state.run_folder import ADAPTER, STATE, RunFolder
from acestep.training.state.tensor_tree import read_state


def temporaries(folder: Path) -> list[Path]:
    """What only a write under way, or one that was killed, leaves."""
    return sorted(path for path in folder.rglob("*") if any(map(_is_temporary, path.relative_to(folder).parts)))


def require_whole(folder: Path, kills: int) -> None:
    """Open every file that is not a temporary one. Each kill may have cut one line of the log."""
    left_out = set(temporaries(folder))
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path not in left_out:
            _open(path, kills)


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith((".tmp", ".old"))


def _open(path: Path, kills: int) -> None:
    match path.suffix:
        case ".json":
            json.loads(path.read_text(encoding="utf-8"))
        case ".jsonl":
            cut = sum(not _is_json(line) for line in path.read_bytes().splitlines())
            assert cut <= kills, f"{path}: {cut} broken lines"
        case ".safetensors":
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118
                    assert torch.isfinite(file.get_tensor(key).float()).all(), f"{path}: {key}"
        case ".pt":
            torch.load(path, weights_only=True)


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def require_saved(folder: Path) -> int:
    """Load the newest checkpoint of a run and give its step; 0 without one. No part of a checkpoint counts as one."""
    run = RunFolder(folder)
    for checkpoint in run.saved():
        assert {ADAPTER, STATE} <= {part.name for part in checkpoint.iterdir()}, f"{checkpoint} is not whole"
    latest_checkpoint = run.latest_checkpoint()
    if latest_checkpoint is None:
        assert not any(event.role == "checkpoint" for event in saved_in(folder)), "a checkpoint is lost"
        return 0
    read_adapter(latest_checkpoint / ADAPTER)
    step = int(read_state(latest_checkpoint / STATE)["progress"]["step"])
    told = [event for event in saved_in(folder) if event.role == "checkpoint"]
    if told:
        assert step >= _step_at(folder, told[-1]), "the save that was told last is lost"
    return step


def require_songs(folder: Path, wanted: dict[str, bytes]) -> int:
    """Each song that is there is whole and as it must be, the manifest names no other; gives how many there are."""
    if not folder.is_dir():
        return 0
    found = {path.name: path.read_bytes() for path in list_tensor_files(folder)}
    assert all(wanted[name] == data for name, data in found.items()), "a song differs"
    if (folder / "manifest.json").is_file():
        manifest = read_manifest(folder)
        assert not manifest.missing
        assert {path.name for path in manifest.paths} <= found.keys()
    told = {Path(event.path).name for event in saved_in(folder / "_job") if event.role == "tensor"}
    assert told <= found.keys(), "a song that was told is lost"
    return len(found)


def saved_in(folder: Path) -> list[Saved]:
    return [event for event in EventLog(folder / "events.jsonl").read()[0] if isinstance(event, Saved)]


def steps_in(folder: Path, offset: int = 0) -> list[int]:
    """Of the steps told since byte ``offset`` of the log."""
    return [event.step for event in EventLog(folder / "events.jsonl").read(offset)[0] if isinstance(event, StepLogged)]


def _step_at(folder: Path, saved: Saved) -> int:
    """The last step that was told in the same sitting before ``saved``; 0 if there was none."""
    steps = 0
    for event in EventLog(folder / "events.jsonl").read()[0]:
        if isinstance(event, Started | StepLogged):
            steps = event.step if isinstance(event, StepLogged) else 0
        if event == saved:
            break
    return steps


def contents(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
