"""Shows whether a run with the current settings fits into memory, updated while they are edited."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

import gradio as gr

from acestep.core.config import groups
from acestep.core.errors import AceStepError, ConfigError
from acestep.core.system_memory import free_bytes
from acestep.training.configs import TrainJob
from acestep.training.memory.advice import Advice, advise
from acestep.training.memory.automatic import Choices, choose
from acestep.training.memory.estimate import GIB, PARTS, Estimate, estimate
from acestep.training.memory.spec import FRAMES_PER_S, LONGEST_S, USUAL_TOKENS, memory_spec
from acestep.training.parsing import set_value
from acestep.ui import html, layout
from acestep.ui.errors import describe_error, notify
from acestep.ui.trainer.app_state import AppState
from acestep.ui.trainer.page_context import TrainerContext
from acestep.ui.trainer.train_settings import TrainSettings

_STEP_GB = 0.5  # free memory changes all the time; smaller changes do not update the panel


@dataclass(frozen=True, slots=True)
class Forecast:
    """The memory estimate of a run with its automatic choices, and the free memory in bytes (None if unknown)."""

    need: Estimate
    choices: Choices
    device: str
    where: str
    free: float | None
    advice: tuple[Advice, ...]

    @property
    def fits(self) -> bool:
        return self.free is None or self.need.fits(self.free)


class MemoryPanel:
    """The components of the panel and their event listeners."""

    def __init__(self, page: TrainerContext, settings: TrainSettings) -> None:
        self._app, self._settings, self._forms = page.app, settings, settings.forms
        self._changes, self._fields = page.changes, page.saved_fields
        content = gr.HTML(elem_id="tr-train-memory")
        with layout.actions():
            change = gr.Button("Change these settings", size="sm", visible=False, elem_id="tr-train-fit")
        page.on(change.click, self._change)
        page.changes.place(page, ("memory",), "tr-memory")
        page.live.add([content, change], self._version, self._render)

    def _version(self) -> object:
        settings = self._app.settings
        values = tuple(str(settings.get(form.key(name))) for form in self._forms.values() for name in form.names)
        free = _device_memory(self._app)[2]
        chosen = settings.text("service.checkpoint"), self._app.tensors_version()
        return values, chosen, None if free is None else round(free / GIB / _STEP_GB)

    def _render(self) -> list[Any]:
        try:
            found = forecast(self._app, self._settings.current())
        except ConfigError:
            return [
                html.notice("The memory estimate appears once all settings are valid."),
                gr.update(visible=False),
            ]
        except AceStepError as error:
            return [html.notice("No memory estimate yet", [describe_error(error)]), gr.update(visible=False)]
        return [forecast_html(found), gr.update(visible=bool(found.advice))]

    def _change(self) -> None:
        """Apply the suggested changes to the settings on the page."""
        job = self._settings.current()
        found = forecast(self._app, job)
        for advice in found.advice:
            for name, value in advice.changes.items():
                set_value(job, name, value)
        values: dict[str, Any] = {}
        for name in groups(TrainJob):
            values |= self._forms[name].to_saved(getattr(job, name))
        changed = {key: value for key, value in values.items() if self._fields.value(key) != value}
        self._changes.apply("memory", "Changed to use less memory", changed)
        notify("The settings now take less memory.")


def forecast(app: AppState, job: TrainJob) -> Forecast:
    """The memory estimate of ``job`` with the selected model and tensors. Raises CheckpointError."""
    device, where, free = _device_memory(app, job.device)
    try:
        sizes = app.tensors().sizes
    except AceStepError:
        sizes = None
    spec = memory_spec(
        app.checkpoint().config,
        job.training,
        job.adapter,
        device=device,
        longest=sizes.longest if sizes else int(LONGEST_S * FRAMES_PER_S),
        tokens=sizes.tokens if sizes else USUAL_TOKENS,
        songs=sizes.songs if sizes else None,
        bf16=app.gpu is None or app.gpu.bf16,
        sharded=job.strategy == "fsdp",
        dataset_bytes=sizes.num_bytes if sizes else 0,
    )
    advice, choices = () if free is None else tuple(advise(spec, free)), choose(spec, free)
    return Forecast(estimate(choices.spec), choices, device, where, free, advice)


def forecast_html(found: Forecast) -> str:
    """A forecast as HTML: the estimate, a bar, suggested changes, and the parts of the estimate."""
    need = found.need.total / GIB
    badge = html.badge("fits" if found.fits else "does not fit", "good" if found.fits else "bad", fits=found.fits)
    if found.free is None:
        badge, room = html.badge("free memory unknown"), "the free memory is not known"
    else:
        room = f"{found.free / GIB:.1f} GB free"
    least = "At least" if found.need.unknown else "About"
    text = f"{least} {need:.1f} GB at the peak; {room} ({found.where})."
    bar = html.progress_bar(min(need, found.free / GIB), found.free / GIB, "Predicted memory") if found.free else ""
    advice = ""
    if not found.fits:
        enough = bool(found.advice) and found.advice[-1].together.fits(found.free or 0.0)
        lines = [_sentence(f"{one.text}: then {one.together.total / GIB:.1f} GB") for one in found.advice]
        lines += [] if enough else ["Even then it does not fit: the run needs more memory than is free."]
        advice = html.notice("To make it fit", lines, "warn")
    parts = {PARTS[name].capitalize(): f"{size / GIB:.2f} GB" for name, size in found.need.parts.items() if size}
    parts |= {PARTS[name].capitalize(): "unknown" for name in found.need.unknown}
    where = f"<details><summary>Breakdown</summary>{html.facts(parts, columns=True)}</details>"
    chosen = "".join(f'<p class="ac-phase">{html.text(_sentence(line))}</p>' for line in found.choices.messages)
    head = f'<div class="ac-line">{badge}<span class="ac-phase">{html.text(text)}</span></div>'
    return f"{head}{bar}{chosen}{advice}{where}"


def _sentence(line: str) -> str:
    return f"{line[:1].upper()}{line[1:]}."


def _device_memory(app: AppState, requested: str = "auto") -> tuple[str, str, float | None]:
    """The device type that a run would use, its name, and its free memory in bytes.

    A model that is loaded only for generation is freed before training starts, but does not count as free here.
    """
    if requested == "cpu":
        return "cpu", "system memory", free_bytes()
    if app.gpu is not None:
        return "cuda", app.gpu.name, app.gpu.free_gb * GIB
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return "mps", "unified memory", free_bytes()
    return "cpu", "no NVIDIA GPU: system memory", free_bytes()
