"""``gr.Blocks`` that answers at once for outputs that an event listener skips."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import gradio as gr


class PageBlocks(gr.Blocks):
    """A page with many panels, of which few change at a time.

    For each output that is skipped, Gradio 6.31 creates its component anew, which changes nothing and takes most of
    the time of a poll.
    """

    async def postprocess_data(self, block_fn: Any, predictions: Any, state: Any) -> list[Any]:
        """The data of each output, as of ``gr.Blocks``. Only outputs that are not skipped are processed."""
        outputs = list(block_fn.outputs)
        values = _values(predictions, len(outputs))
        changed = [index for index, value in enumerate(values) if not _is_skip(value)]
        if len(changed) == len(values) or block_fn.batch or block_fn.is_validator_function:
            return await super().postprocess_data(block_fn, predictions, state)
        data: list[Any] = [None if output.stateful else gr.skip() for output in outputs]
        if changed:
            part = copy.copy(block_fn)
            part.outputs = [outputs[index] for index in changed]
            found = [values[index] for index in changed]
            processed = await super().postprocess_data(part, found if len(found) > 1 else found[0], state)
            for index, value in zip(changed, processed, strict=True):
                data[index] = value
        return data


def _values(predictions: Any, count: int) -> Sequence[Any]:
    """The value of each output; empty if the outputs are given in another form, such as a dict."""
    if _is_skip(predictions):
        return [gr.skip()] * count
    if count > 1 and isinstance(predictions, list | tuple) and len(predictions) == count:
        return predictions
    return []


def _is_skip(value: Any) -> bool:
    return isinstance(value, dict) and value == gr.skip()
