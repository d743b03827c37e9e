"""Skipped outputs cost nothing, and every other output is processed as Gradio does."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import gradio as gr
import pandas as pd
import pytest
from gradio.state_holder import SessionState

from acestep.ui.blocks import PageBlocks

TABLE = pd.DataFrame({"song": ["a", "b"]})


def page() -> tuple[PageBlocks, Any, list[Any]]:
    """A page, the listener of a button with four outputs, and those outputs."""
    blocks: PageBlocks
    with PageBlocks() as blocks:
        outputs = [gr.State(0), gr.Textbox(label="Name"), gr.Dataframe(), gr.HTML()]
        gr.Button().click(lambda: None, None, outputs)
    return blocks, next(iter(blocks.fns.values())), outputs


@pytest.mark.parametrize(
    "values",
    [
        gr.skip(),
        [gr.skip()] * 4,
        [3, gr.skip(), gr.skip(), gr.skip()],
        [gr.skip(), "typed", gr.skip(), gr.skip()],
        [gr.skip(), gr.update(value="typed", visible=False), TABLE, gr.skip()],
        [3, gr.update(label="Title"), gr.skip(), None],
        [3, "typed", TABLE, "<p>text</p>"],
    ],
    ids=range(7),
)
def test_data_and_state_are_those_of_gradio(values: Any) -> None:
    expected, found = (
        processed(process, copy.deepcopy(values))
        for process in (gr.Blocks.postprocess_data, PageBlocks.postprocess_data)
    )
    assert found == expected


def processed(process: Any, values: Any) -> tuple[Any, ...]:
    """The data that the page gets, and the label and the state that the server then has."""
    blocks, listener, (number, name, *_) = page()
    state = SessionState(blocks)
    data = asyncio.run(process(blocks, listener, values, state))
    for item in data:
        if isinstance(item, dict):
            item.pop("props", None)  # of gr.HTML: for a skipped output it repeats that nothing changes
    return data, state.get(name._id, name).label, state.get(number._id)


def test_values_by_component_are_processed_as_gradio_does() -> None:
    blocks, listener, outputs = page()
    data = asyncio.run(blocks.postprocess_data(listener, {outputs[1]: "typed"}, SessionState(blocks)))
    assert data[1] == "typed"


def test_components_of_skipped_outputs_are_not_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks, listener, _ = page()
    made: list[str] = []
    original = gr.Textbox.__init__
    monkeypatch.setattr(gr.Textbox, "__init__", lambda self, **k: (made.append("textbox"), original(self, **k))[1])
    asyncio.run(blocks.postprocess_data(listener, [3, gr.skip(), gr.skip(), "text"], SessionState(blocks)))
    assert made == []
