"""How errors reach the user: a message on the page or a JSON object, never a traceback."""

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
JsonObject = dict[str, Any]  # what API functions return

INTERNAL_ERROR = "This is a bug. The terminal window of this program shows the details."


def describe_error(error: AceStepError) -> str:
    """What happened and what to do, as one text."""
    message = str(error).rstrip(". ")
    return f"{message[:1].upper()}{message[1:]}. {error.hint}".strip()


def report_errors(listener: Callable[P, R]) -> Callable[P, R]:
    """Wrap an event listener so that its errors become messages on the page."""

    @functools.wraps(listener)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return listener(*args, **kwargs)
        except AceStepError as error:
            raise gr.Error(escape(describe_error(error)), duration=None, print_exception=False) from None
        except gr.Error:
            raise
        except Exception:  # noqa: BLE001 - the border of an event: the page keeps working
            logger.exception("an event listener of the page failed")
            raise gr.Error(INTERNAL_ERROR, duration=None, print_exception=False) from None

    return wrapper


def json_errors(function: Callable[..., JsonObject]) -> Callable[..., JsonObject]:
    """Wrap an API function so that its errors become ``{"error": {"code", "message", "hint"}}``."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> JsonObject:
        try:
            return function(*args, **kwargs)
        except AceStepError as error:
            return {"error": {"code": error.code, "message": str(error), "hint": error.hint}}
        except Exception:  # noqa: BLE001 - the border of a request
            logger.exception("an API function failed")
            return {"error": {"code": "OurFault", "message": INTERNAL_ERROR, "hint": ""}}

    return wrapper


def warn(message: str) -> None:
    """Show a warning until there was time to read it (``toasts.js``)."""
    gr.Warning(escape(message), duration=None)


def notify(message: str) -> None:
    """Show a message until there was time to read it (``toasts.js``)."""
    gr.Info(escape(message), duration=None)
