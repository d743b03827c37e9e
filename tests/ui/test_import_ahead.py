"""Torch is imported in the background, after the page was served."""

from __future__ import annotations

import asyncio
import sys
import threading
from types import ModuleType

import pytest

from acestep.training.gpu_monitor import torch_uses_gpu
from acestep.ui.import_ahead import ImportAhead, import_torch

TIMEOUT_S = 30


def request(page: ImportAhead, path: str, method: str = "GET") -> None:
    asyncio.run(page({"type": "http", "path": path, "method": method}, None, None))  # type: ignore[arg-type]


def test_the_import_starts_once_after_the_page_was_answered() -> None:
    order: list[str] = []
    started = threading.Event()

    async def answer(scope: object, receive: object, send: object) -> None:
        order.append("answered")

    def start() -> None:
        order.append("started")
        started.set()

    page = ImportAhead(answer, start, delay_s=0)
    request(page, "/health")
    request(page, "/", "HEAD")
    assert not started.wait(0.1)
    request(page, "/")
    assert started.wait(TIMEOUT_S)
    request(page, "/")
    assert order == ["answered", "answered", "answered", "started", "answered"]


def test_a_failing_import_is_not_an_error_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # Python then raises ModuleNotFoundError
    import_torch()


def test_torch_that_is_being_imported_is_not_asked_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    assert not torch_uses_gpu()
