"""How a problem reaches the person: our own words at the place where it happened, never a traceback."""

from __future__ import annotations

import functools
from collections.abc import Callable
from html import escape
from typing import Any, ParamSpec, TypeVar

import gradio as gr
from loguru import logger

from acestep.core.errors import AceStepError

P = ParamSpec("P")
R = TypeVar("R")
Answer = dict[str, Any]  # what the API gives: plain JSON

INTERNAL_ERROR = "Something went wrong that should not have. The details are in the terminal window of this program."


def describe_error(error: AceStepError) -> str:
    """What happened and what to do, as one text."""
    message = str(error).rstrip(". ")
    return f"{message[:1].upper()}{message[1:]}. {error.hint}".strip()


def report_errors(handler: Callable[P, R]) -> Callable[P, R]:
    """``handler`` of an event, whose errors become messages on the page."""

    @functools.wraps(handler)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return handler(*args, **kwargs)
        except AceStepError as error:
            raise gr.Error(escape(describe_error(error)), duration=None, print_exception=False) from None
        except gr.Error:
            raise
        except Exception:  # noqa: BLE001 - the border of an event: the page goes on whatever happened
            logger.exception("an event of the page failed")
            raise gr.Error(INTERNAL_ERROR, duration=None, print_exception=False) from None

    return guarded


def json_errors(function: Callable[..., Answer]) -> Callable[..., Answer]:
    """``function`` of the API, whose errors become ``{"error": {"code", "message", "hint"}}``."""

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Answer:
        try:
            return function(*args, **kwargs)
        except AceStepError as error:
            return {"error": {"code": error.code, "message": str(error), "hint": error.hint}}
        except Exception:  # noqa: BLE001 - the border of a call
            logger.exception("a call of the API failed")
            return {"error": {"code": "OurFault", "message": INTERNAL_ERROR, "hint": ""}}

    return guarded


def warn(message: str) -> None:
    """A passing message: something was not done as asked."""
    gr.Warning(escape(message))


def notify(message: str) -> None:
    """A passing message: it worked."""
    gr.Info(escape(message), duration=4)
