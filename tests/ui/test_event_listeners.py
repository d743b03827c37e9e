"""The list of all event listeners of both pages: the messages of every one of them reach the page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dev.event_listeners import BROWSER, REFRESH, SILENT, TOAST, EventListener, event_listeners, markdown, pages

SILENT_FUNCTIONS = {
    "LiveUpdates._poll",
    "LiveUpdates.wire.<locals>.render_all",
    "SavedFields._saver.<locals>.save",
    "SavedFields._update",
    "SongEditor._dropdown_typist.<locals>.hold_choice",
    "SongEditor._on_refresh",
    "SongEditor._typist.<locals>.hold",
    "UnconfirmedText._use",
    "UnconfirmedText.add.<locals>.forget",
    "UnconfirmedText.add.<locals>.hold",
}
# Called also when the program changes the value; they report only that a file cannot be written.
ON_CHANGE = {"DatasetTab._setter.<locals>.set_metadata"}


@pytest.fixture(scope="module")
def listeners(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[EventListener]]]:
    folder = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "cache"))
        yield {title: event_listeners(blocks) for title, blocks in pages(folder)}


def of_people(listeners: list[EventListener]) -> list[EventListener]:
    """The listeners of what a person does."""
    return [
        each for each in listeners if each.function not in SILENT_FUNCTIONS and each.delivery not in (BROWSER, REFRESH)
    ]


def test_both_pages_are_listed(listeners: dict[str, list[EventListener]]) -> None:
    assert [len(of_people(each)) > 30 for each in listeners.values()] == [True, True]


def test_only_known_listeners_are_silent(listeners: dict[str, list[EventListener]]) -> None:
    assert set(SILENT) == SILENT_FUNCTIONS
    for each in listeners.values():
        assert [listener for listener in of_people(each) if listener.delivery != TOAST] == []


def test_the_panels_refresh_after_each_listener_also_when_it_fails(listeners: dict[str, list[EventListener]]) -> None:
    for each in listeners.values():
        refreshed = {(listener.after, listener.event) for listener in each if listener.delivery == REFRESH}
        expected = {(listener.number, event) for listener in of_people(each) for event in ("success", "failure")}
        assert expected - refreshed == set()


def test_what_the_program_does_shows_no_toast(listeners: dict[str, list[EventListener]]) -> None:
    for each in listeners.values():
        started = {listener.function for listener in of_people(each) if listener.event in ("change", "load", "tick")}
        assert started - ON_CHANGE == set()


def test_the_list_is_a_markdown_table(listeners: dict[str, list[EventListener]]) -> None:
    table = markdown(listeners["ACE-Step trainer"]).splitlines()
    assert table[:2] == ["| Component | Event | Function | Messages |", "| --- | --- | --- | --- |"]
    assert "| tr-service-look | click | ServiceTab._look | toast, through the queue |" in table
