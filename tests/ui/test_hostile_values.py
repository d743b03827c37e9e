"""Event listeners of both pages with values that no browser sends: a result or a message, never an internal error."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import gradio as gr
import pytest
from gradio.helpers import special_args

from acestep.ui.errors import INTERNAL_ERROR
from dev.event_listeners import pages
from tests.mutated.mutations import hostile_value

ROUNDS = 2
SKIPPED = ("SystemChecks.", "_download", "gpu_status", "tiny", "demo")  # other programs, network, or slow
PAGES = ("ACE-Step captioner", "ACE-Step trainer")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def built(workspace: Path) -> Iterator[dict[str, gr.Blocks]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(workspace / "cache"))
        yield dict(pages(workspace))


def received(random: Random, component: Any) -> Any:
    """What a listener receives for a hostile value: what the component makes of it, or the value if it has no rule."""
    if isinstance(component, gr.State):  # kept by the server
        return component.value
    try:
        return component.preprocess(hostile_value(random))
    except Exception:  # noqa: BLE001 - Gradio rejects the value, so the listener is not called
        return component.value


def call(random: Random, listener: Any) -> None:
    """Call a listener as Gradio does, with hostile values and hostile event data."""
    values = [received(random, component) for component in listener.inputs]
    data = {name: hostile_value(random) for name in ("index", "value", "row_value", "col_value", "selected")}
    inputs = [dict(zip(listener.inputs, values, strict=True))] if listener.inputs_as_dict else values
    arguments, *_ = special_args(listener.fn, inputs, None, gr.EventData(None, data))
    result = listener.fn(*arguments)
    if isinstance(result, dict) and "error" in result:  # of an API function
        assert result["error"]["message"] != INTERNAL_ERROR
    if inspect.isgenerator(result):
        list(result)


@pytest.mark.parametrize("title", PAGES)
def test_hostile_values_end_in_a_message(built: dict[str, gr.Blocks], title: str) -> None:
    failed = []
    for listener in list(built[title].fns.values()):
        name = getattr(listener.fn, "__qualname__", "")
        if listener.fn is None or any(word in name for word in SKIPPED):
            continue
        for number in range(ROUNDS):
            try:
                call(Random(f"{title} {listener._id} {number}"), listener)
            except gr.Error as error:
                if error.message == INTERNAL_ERROR:
                    failed.append(name)
            except Exception as error:  # noqa: BLE001 - all failures are listed
                failed.append(f"{name} {error!r}")
    assert failed == []


def test_the_pages_open_after_hostile_values_were_saved(
    built: dict[str, gr.Blocks], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(workspace / "cache"))
    assert dict(pages(workspace)).keys() == built.keys()
