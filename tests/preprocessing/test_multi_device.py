"""Two processes share the songs and leave what one does."""

import json
from pathlib import Path

import torch

from acestep.core.events import ItemFailed, Progressed, Saved
from tests.bad_files import with_nan
from tests.preprocessing.conftest import Listener, label, tensors


def manifest(out: Path) -> dict:
    return {**json.loads((out / "manifest.json").read_text()), "created_at": None}


def test_two_processes_write_the_bytes_of_one_and_one_manifest(workshop, tmp_path):
    label(with_nan(workshop.songs / "broken.wav"), "a click")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as many as each of the two has here, or sums are rounded in another order
    try:
        alone = workshop.run(tmp_path / "alone", heard := Listener())
    finally:
        torch.set_num_threads(threads)
    together = workshop.run(tmp_path / "together", listener := Listener(), devices=2)
    assert together["ready"] == alone["ready"] == 2
    assert {**together, "out": ""} == {**alone, "out": ""}
    assert tensors(tmp_path / "together") == tensors(tmp_path / "alone")
    assert manifest(tmp_path / "together") == manifest(tmp_path / "alone")
    assert sorted(listener.said(ItemFailed)) == sorted(heard.said(ItemFailed))
    assert len(listener.said(ItemFailed)) == 1
    assert len(listener.said(Saved)) == 2
    assert [text[:5] for text in listener.said(Progressed)] == [text[:5] for text in heard.said(Progressed)]
