"""How errors reach the user: a message on the page or a JSON object, never a traceback."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from html import escape
from types import UnionType
from typing import Any, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

import gradio as gr
from loguru import logger

from acestep.core.errors import AceStepError, ConfigError
from acestep.core.untrusted import shorten

P = ParamSpec("P")
R = TypeVar("R")
JsonObject = dict[str, Any]  # what API functions return

_NAMES = {
    str: "text",
    dict: "an object",
    list: "a list",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}

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
            _check_arguments(function, *args, **kwargs)
            return function(*args, **kwargs)
        except AceStepError as error:
            return {"error": {"code": error.code, "message": str(error), "hint": error.hint}}
        except Exception:  # noqa: BLE001 - the border of a request
            logger.exception("an API function failed")
            return {"error": {"code": "OurFault", "message": INTERNAL_ERROR, "hint": ""}}

    return wrapper


def _check_arguments(function: Callable[..., JsonObject], *args: Any, **kwargs: Any) -> None:
    """Raise ConfigError if an argument has another type than annotated; clients can send any JSON value."""
    hints = get_type_hints(function)
    for name, value in inspect.signature(function).bind(*args, **kwargs).arguments.items():
        annotation = hints.get(name, object)
        kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
        types = tuple(get_origin(kind) or kind for kind in kinds)
        if Any not in types and not isinstance(value, types):
            expected = " or ".join(_NAMES.get(kind, kind.__name__) for kind in types)
            raise ConfigError([f"{name} must be {expected}, got {shorten(repr(value))}"])


def warn(message: str) -> None:
    """Show a warning until there was time to read it (``toasts.js``)."""
    gr.Warning(escape(message), duration=None)


def notify(message: str) -> None:
    """Show a message until there was time to read it (``toasts.js``)."""
    gr.Info(escape(message), duration=None)
