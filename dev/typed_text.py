"""Types into every field of the trainer page, kills the program, restarts it, and reports what is lost.

    python -m dev.typed_text [--workspace DIR]

The fields are those that the page itself lists. Without a workspace, the demo workflow makes one first: some fields are
shown only when there are runs. Prints a table of the fields; the exit status is 1 if a value is lost or a
field cannot be reached.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page, TimeoutError, expect

from acestep.demo.run import run_demo
from tests.songs import write_song
from tests.ui.drive import WAIT_S, chromium, fill, press, serve, tab

TABS = ("1. Service", "2. Dataset", "3. Preprocess", "4. Train", "5. Listen", "6. Export", "Runs", "System")
SONGS = ("first", "second")
ADAPTERS = ("LoRA", "DoRA", "LoKr", "LoHa")
PAUSE_MS = 900  # after the last input, until the program is killed
EXEMPT = {
    "tr-runs-confirm": "confirms one deletion, so a stale name would be dangerous",
    "tr-dataset-folder": "the folder of the scan; it is entered before the other fields",
    "tr-train-smoothing": "shown only when a run was started; saved like the other sliders",
}

# What the format or the meaning of a field requires; other fields get any text or number.
_TEXTS = {
    "tr-service-folder": "{workspace}/checkpoints",
    "tr-train-out": "{workspace}/lora_output",
    "bpm": "97",
    "timesignature": "3",
    "beats": "3",
    "language": "fr",
    "ranks": '{"q": 4}',
    "device": "cpu",
    "dtype": "float32",
    "key": "D minor",
    "keyscale": "D minor",
}
_SELECT_ATTEMPTS, _SELECT_TIMEOUT_MS = 4, 4000
_SELECTED = ("tr-resume-run", "tr-resume-from")  # show the name of a run in place of the path that is typed
_LINKED = ("tr-song-lyrics", "tr-song-instrumental")  # each changes the other
_FILTER = "tr-songs-filter"
_CHOICES = ("checkbox", "radio", "dropdown")  # before text: they may set other fields

_COMPONENTS = """() => window.gradio_config.components
  .filter(({type, props}) => props.interactive !== false && props.visible !== "hidden" &&
    ["textbox", "number", "slider", "checkbox", "checkboxgroup", "radio", "dropdown"].includes(type))
  .map(({id, type, props}) => ({elem_id: props.elem_id || `component-${id}`, kind: type, label: props.label || "",
    custom: !!props.allow_custom_value, number: props.placeholder === "automatic"}))"""

_VALUES = """ids => Object.fromEntries(ids.map(id => [id, document.getElementById(id)])
  .filter(([id, root]) => root && root.checkVisibility()).map(([id, root]) => {
    const inputs = [...root.querySelectorAll("textarea, input")], kind = inputs[0]?.type
    if (kind === "radio") return [id, inputs.find(each => each.checked)?.value ?? ""]
    if (kind === "checkbox") return [id, String(inputs[0].checked)]
    const tokens = [...root.querySelectorAll(".token")].map(each => each.innerText.trim())
    return [id, [...tokens, inputs[0]?.value ?? ""].filter(each => each).join(", ")]
  }))"""

_INSIDE_TABS = "ids => ids.filter(id => document.getElementById(id)?.closest('[role=tabpanel]'))"

_OPEN_SECTIONS = """() => [...document.querySelectorAll("button.label-wrap:not(.open)")]
  .filter(each => each.checkVisibility()).map(each => each.click()).length"""


@dataclass(frozen=True, slots=True)
class Field:
    """An editable component of the page; ``number``: a text box for a number."""

    elem_id: str
    kind: str
    label: str
    custom: bool
    number: bool

    @property
    def place(self) -> str:
        """Which part of a tab shows it: "song", an adapter, or "" """
        prefix, _, rest = self.elem_id.partition("-")
        if self.elem_id.startswith("tr-song-"):
            return "song"
        return next((name for name in ADAPTERS if name.lower() == prefix and rest), "")


@dataclass(frozen=True, slots=True)
class Key:
    """A field in a tab; ``place`` is the song or the adapter that it belongs to, or empty."""

    tab: str
    place: str
    elem_id: str


Values = dict[Key, str]


class Walk:
    """All fields of an open page, tab by tab.

    Args:
        thorough: all fields of all adapters, not only one of each kind in each part of each tab.
    """

    def __init__(self, page: Page, workspace: Path, *, thorough: bool) -> None:
        self._page, self._workspace, self._thorough = page, workspace, thorough
        found = [Field(**each) for each in page.evaluate(_COMPONENTS)]
        self.fields = {field.elem_id: field for field in found if field.elem_id not in EXEMPT}

    def type_everything(self) -> Values:
        """Type into every field that can be reached; returns the values right after that."""
        typed: Values = {}
        seen: set[Key] = set()
        for title, place in self._places():
            while new := [key for key in self._visible(title, place) if key not in seen]:
                seen |= set(new)
                fields = {key: self.fields[key.elem_id] for key in new}
                if not self._thorough:
                    new = list({(fields[key].kind, fields[key].custom): key for key in new}.values())
                for key in sorted(new, key=lambda key: fields[key].kind not in _CHOICES):
                    typed[key] = self.type_into(fields[key])
                self._page.wait_for_timeout(300)
        return typed

    def read(self, tabs: Sequence[str] = TABS) -> Values:
        """The values of all fields that can be reached."""
        found: Values = {}
        for title, place in self._places(tabs):
            self._page.wait_for_timeout(300)
            found |= self._visible(title, place)
        return found

    def type_last(self, key: Key) -> Values:
        """Type in one more field, and stay in it; returns its new value, and that of the filter of the songs."""
        next(place for title, place in self._places([key.tab]) if place == key.place)
        text = self.type_into(self.fields[key.elem_id], by_keys=True)
        shown = self._visible(key.tab, "")
        return {key: text} | {other: value for other, value in shown.items() if other.elem_id == _FILTER}

    def type_into(self, field: Field, *, by_keys: bool = False) -> str:
        """Enter another value, stay in the field, and return the value."""
        root = self._page.locator(f"#{field.elem_id}")
        if field.kind == "checkbox":
            checked = root.locator("input").is_checked()
            root.locator("input").click()
            return str(not checked).lower()
        if field.kind == "radio":
            other = root.locator("input:not(:checked)").last
            value = str(other.get_attribute("value"))
            other.click()
            return value
        if field.kind == "dropdown" and (not field.custom or field.elem_id in _SELECTED):
            self._select_other(root)
        else:
            entry = root.locator("textarea, input").first
            text = self._text(field, entry.input_value()) + (" again" if by_keys and self._is_free(field) else "")
            if by_keys:
                entry.press("Control+a")
                entry.press_sequentially(text)
            else:
                entry.fill(text)
        return self._values([field.elem_id]).get(field.elem_id, "")

    def _select_other(self, root: Locator) -> None:
        others = self._page.locator("ul[role=listbox] li[aria-selected=false]")
        for _ in range(_SELECT_ATTEMPTS):
            root.locator("input").click()
            try:
                if others.count():
                    others.last.click(timeout=_SELECT_TIMEOUT_MS)
                break
            except TimeoutError:  # an update of the page replaced the list
                self._page.keyboard.press("Escape")
        self._page.keyboard.press("Escape")

    def _is_free(self, field: Field) -> bool:
        return self._text(field, "").startswith("typed")

    def _text(self, field: Field, current: str) -> str:
        name = re.sub(r"^[a-z]+-(song-)?", "", field.elem_id)
        if field.kind in ("number", "slider") or field.number:
            return _other_number(float(current or 2), 5 if field.elem_id == "dataset-genre-ratio" else 1)
        text = _TEXTS.get(field.elem_id) or _TEXTS.get(name) or f"typed {field.elem_id}"
        return text.format_map({"workspace": self._workspace}) if "{workspace}" in text else text

    def _places(self, tabs: Sequence[str] = TABS) -> Iterator[tuple[str, str]]:
        """Open each tab and each part of it, with all sections."""
        for title in tabs:
            tab(self._page, title)
            self._page.wait_for_timeout(300)  # until its panels are filled
            while self._page.evaluate(_OPEN_SECTIONS):
                self._page.wait_for_timeout(200)
            yield title, ""
            if title.endswith("Dataset"):
                yield from ((title, song) for song in self._songs())
            if title.endswith("Train") and self._thorough:
                yield from ((title, adapter) for adapter in self._adapters())

    def _songs(self) -> Iterator[str]:
        chosen = self._values([_FILTER])[_FILTER]
        self._page.locator(f"#{_FILTER} input").first.click()
        for row, song in enumerate(SONGS):
            self._page.get_by_test_id(f"cell-{row}-1").click()
            expect(self._page.locator("#tr-song-title")).to_contain_text(f"{song}.wav")
            yield song
        self._page.locator(f'#{_FILTER} input[value="{chosen}"]').click()

    def _adapters(self) -> Iterator[str]:
        entry = self._page.locator("#training-adapter-type input")
        chosen = entry.input_value()
        for adapter in (*(name for name in ADAPTERS if name != chosen), chosen):
            if entry.input_value() != adapter:
                entry.click()
                self._page.get_by_role("option", name=adapter, exact=True).click()
            column = self._page.locator(f"#tr-train-{adapter.lower()}")
            expect(column).to_be_visible()
            if not column.locator("button.label-wrap.open").count():
                column.locator("button.label-wrap").click()
            yield adapter

    def _visible(self, title: str, place: str) -> Values:
        names = [name for name, field in self.fields.items() if field.place == _kind_of(place)]
        if title != TABS[0]:  # which lists the fields above the tabs
            names = self._page.evaluate(_INSIDE_TABS, names)
        values = self._values(names)
        return {Key(title, place, elem_id): value for elem_id, value in values.items()}

    def _values(self, elem_ids: list[str]) -> dict[str, str]:
        values: dict[str, str] = self._page.evaluate(_VALUES, elem_ids)
        return values


def _kind_of(place: str) -> str:
    return "song" if place in SONGS else place


def _other_number(number: float, step: int) -> str:
    return f"{number / 2:g}" if 0 < number < 1 else f"{number + step:g}"


def scan(page: Page, folder: Path) -> None:
    """Scan the songs."""
    tab(page, "2. Dataset")
    fill(page, "tr-dataset-folder", str(folder))
    press(page, "tr-dataset-scan")
    expect(page.get_by_test_id("toast-body").filter(has_text="Found").last).to_be_visible()
    page.get_by_test_id("toast-close").last.click()


def write_songs(folder: Path) -> Path:
    """Two songs without labels."""
    for seed, name in enumerate(SONGS):
        write_song(folder / f"{name}.wav", 1.0, seed)
    return folder


def losses(typed: Mapping[Key, str], found: Mapping[Key, str]) -> Values:
    """What was found in the fields that differ from what was typed."""
    lost = {key: found.get(key, "(not shown)") for key, text in typed.items()}
    return {key: text for key, text in lost.items() if text != typed[key]}


@dataclass(frozen=True, slots=True)
class Report:
    """What was typed, what was lost by the event after which it was missing, and the fields that were not reached."""

    fields: Mapping[str, Field]
    typed: Values
    lost: dict[str, Values]
    unreached: list[str]


def drill(browser: Browser, workspace: Path, songs: Path, *, thorough: bool) -> Report:
    """Type, reload, kill, restart and scan again.

    Args:
        thorough: type into all fields, and kill the program after typing in a field of each kind, not only in one.
    """
    lost: dict[str, Values] = {}

    def note(event: str, found: Values) -> None:
        lost[event] = found
        sys.stderr.write(f"{event}: {len(found)} losses {sorted(key.elem_id for key in found)}\n")

    with serve(workspace) as site:
        page = _open(browser, site.url)
        scan(page, songs)
        walk = Walk(page, workspace, thorough=thorough)
        typed = walk.type_everything()
        page.reload()
        if thorough:
            note("reload", losses(typed, walk.read()))
        last = _one_of_each_kind(walk, typed) if thorough else [next(key for key in typed if key.place in SONGS)]
        _type_and_kill(page, walk, typed, last[0], site.process)
    for count, key in enumerate(last, 1):
        with serve(workspace) as site:
            page = _open(browser, site.url)
            walk = Walk(page, workspace, thorough=thorough)
            if count < len(last):
                shown = {each: text for each, text in typed.items() if each.tab == key.tab}
                note(f"kill after {key.elem_id}", losses(shown, walk.read([key.tab])))
                _type_and_kill(page, walk, typed, last[count], site.process)
            else:
                note(f"kill after {key.elem_id}", losses(typed, walk.read()))
                scan(page, songs)
                titles = TABS if thorough else ["2. Dataset"]
                again = {each: text for each, text in typed.items() if each.tab in titles}
                note("scan", losses(again, walk.read(titles)))
                page.close()
    reached = {key.elem_id for key in typed}
    return Report(walk.fields, typed, lost, [name for name in walk.fields if name not in reached])


def _open(browser: Browser, url: str) -> Page:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(WAIT_S * 1000)
    page.goto(url, wait_until="domcontentloaded")
    expect(page.locator("#tr-head h1")).to_be_visible()
    return page


def _one_of_each_kind(walk: Walk, typed: Values) -> list[Key]:
    """The last fields of each kind, because the program is killed while they have the focus."""
    found = {}
    for key in typed:
        field = walk.fields[key.elem_id]
        if field.elem_id not in (*_SELECTED, *_LINKED) and key.place not in ADAPTERS:
            found[field.kind, field.custom, field.number, field.place == "song"] = key
    return list(found.values())


def _type_and_kill(page: Page, walk: Walk, typed: Values, key: Key, process: subprocess.Popen[str]) -> None:
    """Type in one more field, and kill the program before the field is left."""
    typed |= walk.type_last(key)
    page.wait_for_timeout(PAUSE_MS)
    process.kill()
    process.wait()
    page.close()


def table(report: Report) -> str:
    """The report as a Markdown table."""
    rows = [("Tab", "Field", "Typed", "Found"), ("---",) * 4]
    for key, text in report.typed.items():
        found = [f"{lost[key]!r} after {event}" for event, lost in report.lost.items() if key in lost]
        label = f"{key.place} {report.fields[key.elem_id].label} (`{key.elem_id}`)".strip()
        rows.append((key.tab, label, text, "; ".join(found) or "same"))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _workspace_with_runs(folder: Path) -> Path:
    """What the demo workflow leaves, with a second run."""
    run_demo(folder, steps=8, write_line=lambda line: None)
    run = next((folder / "lora_output").iterdir())
    shutil.copytree(run, run.with_name("another"))
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description="Type into every field of the trainer page and look for losses.")
    parser.add_argument("--workspace", type=Path, help="one with two runs; its saved fields are overwritten")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as spare, chromium() as browser:
        workspace = arguments.workspace or _workspace_with_runs(Path(spare) / "workspace")
        report = drill(browser, workspace.resolve(), write_songs(Path(spare) / "songs"), thorough=True)
    sys.stdout.write(f"{table(report)}\n\n")
    lost = sum(map(len, report.lost.values()))
    sys.stdout.write(
        f"{len(report.typed)} fields, {lost} losses. Not reached: {', '.join(report.unreached) or 'none'}.\n"
    )
    return 1 if lost or report.unreached else 0


if __name__ == "__main__":
    sys.exit(main())
