"""HTML snippets. All values are escaped here, because ``gr.HTML`` runs the scripts of its value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from acestep.core.events import approximate_time as approximate_time

Tone = Literal["plain", "good", "warn", "bad", "busy"]


def text(value: object) -> str:
    """``value`` as escaped text."""
    return escape(str(value))


def badge(words: str, tone: Tone = "plain", **data: object) -> str:
    """A short status; ``data`` become ``data-*`` attributes."""
    attributes = "".join(f' data-{key}="{escape(str(value))}"' for key, value in data.items())
    return f'<span class="ac-badge ac-{tone}" role="status"{attributes}>{escape(words)}</span>'


def notice(title: str, lines: Iterable[str] = (), tone: Tone = "plain") -> str:
    """A framed message; screen readers announce a bad one."""
    role = ' role="alert"' if tone == "bad" else ""
    body = "".join(f"<p>{escape(line)}</p>" for line in lines if line)
    return f'<div class="ac-notice ac-{tone}"{role}><strong>{escape(title)}</strong>{body}</div>'


def facts(values: Mapping[str, object], *, columns: bool = False) -> str:
    """Names and values; with ``columns`` in as many columns as fit."""
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{text(value)}</dd></div>" for name, value in values.items())
    return f'<dl class="ac-facts{" ac-columns" if columns else ""}">{rows}</dl>'


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], label: str) -> str:
    """A plain table that scrolls sideways on narrow screens."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in headers)
    body = "".join("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="ac-scroll" tabindex="0" role="region" aria-label="{escape(label)}">'
        f'<table class="ac-table"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def progress_bar(done: float, total: float, label: str) -> str:
    """A progress bar; without a total it is indeterminate."""
    if not total:
        return f'<progress class="ac-bar" aria-label="{escape(label)}"></progress>'
    return f'<progress class="ac-bar" max="{total:g}" value="{done:g}" aria-label="{escape(label)}"></progress>'


def log_box(lines: Sequence[str], label: str, empty: str, limit: int = 200) -> str:
    """The last ``limit`` lines; the style sheet keeps the newest in view."""
    body = escape("\n".join(lines[-limit:]) or empty)
    return f'<div class="ac-log" role="log" tabindex="0" aria-label="{escape(label)}"><pre>{body}</pre></div>'


def address(copy: Path) -> str:
    """The URL of a file in the cache; relative, so that it works behind a proxy."""
    return quote(f"gradio_api/file={copy}", safe="/=:")


def download(copy: Path) -> str:
    """A list item with a download link to a file in the cache."""
    return (
        f'<li><a href="{address(copy)}" download="{text(copy.name)}">{text(copy.name)}</a> '
        f"<span>{size(copy.stat().st_size)}</span></li>"
    )


def size(num_bytes: float) -> str:
    """``520 B``, ``1.0 MB``, ``4.8 GB``."""
    for unit in ("B", "KB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} GB"


def duration(seconds: float) -> str:
    """``3:12`` below an hour, ``1 h 31 min`` above."""
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def shorten(text: str, limit: int) -> str:
    """``text`` on one line, with an ellipsis beyond ``limit`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[:limit]}..."


def count(number: int, noun: str) -> str:
    """``1 song``, ``2 songs``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
