"""2. Engine: what describes the songs and what writes down their lyrics, what that needs, and the keys of services."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import gradio as gr

from acestep.captioning.cloud import SERVICES, find_key, has_key, remember_key
from acestep.captioning.configs import CaptionJob
from acestep.core.errors import AceStepError, ConfigError
from acestep.core.paths import checkpoint_roots, typed_path
from acestep.ui import html
from acestep.ui.captioner.app_state import ENGINES, FORM, LEFT_OUT, AppState
from acestep.ui.captioner.page_context import CaptionerContext
from acestep.ui.errors import notify
from acestep.ui.form import Form
from acestep.ui.page_context import heading

ADDRESSES = {"whisper": "openai_url", "elevenlabs": "elevenlabs_url", "gemini": "gemini_url"}
_MODELS = {"captioner": "captioner_model", "transcriber": "transcriber_model"}


class EngineTab:
    """Widgets and what they do. ``form`` is the whole job but for the songs."""

    def __init__(self, page: CaptionerContext) -> None:
        self._app = app = page.app
        self._version = 0
        self.form = Form(CaptionJob, FORM, page.saved_fields, labels=ENGINES, leave_out=LEFT_OUT)
        heading("What to make, and with what")
        with gr.Row(equal_height=False):
            for group in (("captioner", "write_texts"), ("transcriber", "language"), ("measure", "prefer")):
                with gr.Column(min_width=280):
                    self.form.place(*group)
        needs = gr.HTML(elem_id="cp-needs")
        self.form.place("existing", "custom_tag", "csv")
        with gr.Accordion("Keys of online services", open=False, elem_classes="ac-fold", elem_id="cp-keys"):
            keys = gr.HTML(elem_id="cp-keys-state")
            with gr.Row(elem_classes="ac-grid"):
                boxes = [self._key_box(name) for name in SERVICES]
            with gr.Row(elem_classes="ac-actions"):
                use = gr.Button("Use these keys", elem_id="cp-keys-use")
                forget = gr.Button("Forget typed keys", elem_id="cp-keys-forget")
        with gr.Accordion("Models on this computer", open=False, elem_classes="ac-fold", elem_id="cp-models"):
            self.form.place("captioner_model", "transcriber_model", "checkpoints")
            self.form.place("quantization", "download", "device", "dtype")
            self.form.place("max_tokens", "lyrics_max_tokens")
        self.form.rest("Advanced", folded=True)
        for trigger in (use.click, *(box.submit for box in boxes)):
            page.on(trigger, self._use, boxes, boxes, quiet=True)
        page.on(forget.click, self._forget, [], quiet=True)
        names = ("captioner", "transcriber", "quantization", "download", *_MODELS.values(), *ADDRESSES.values())
        page.live.show(
            [needs, keys],
            lambda: (self._version, *(app.settings.get(f"{FORM}.{name}") for name in (*names, "checkpoints"))),
            self._render,
        )

    def _key_box(self, name: str) -> gr.Textbox:
        service = SERVICES[name]
        return gr.Textbox(
            label=f"{service.label} key",
            info=f"Kept in memory until the program ends. Or set {service.variables[0]}.",
            type="password",
            html_attributes=gr.InputHTMLAttributes(autocomplete="off"),
            elem_id=f"cp-key-{name}",
        )

    def _use(self, *typed: str) -> list[str]:
        given = {name: key for name, key in zip(SERVICES, typed, strict=True) if key and key.strip()}
        if not given:
            raise ConfigError(["no key was typed"], hint="Type one, or set it in the environment.")
        for name, key in given.items():
            find_key(SERVICES[name], key)  # refuses what cannot be a key
            remember_key(name, key)
        self._version += 1
        notify("In use until the program ends.")
        return ["" for _ in SERVICES]

    def _forget(self) -> None:
        for name in SERVICES:
            remember_key(name, "")
        self._version += 1

    def _render(self) -> Sequence[str]:
        config = settings_of(self._app)
        cards = [_needs(config, part, getattr(config, part)) for part in ENGINES]
        rows = [(service.label, _key_state(name)) for name, service in SERVICES.items()]
        return "".join(dict.fromkeys(cards)), html.table(["Service", "Key"], rows, "Keys")


def settings_of(app: AppState) -> CaptionJob:
    """The chosen settings, also while there is no folder."""
    try:
        return app.config()
    except ConfigError:
        return app.config_for(Path())


def host_of(config: CaptionJob, service: str) -> str:
    """To which computer songs would be sent."""
    return urlsplit(getattr(config, ADDRESSES[service])).hostname or "an unknown address"


def _needs(config: CaptionJob, part: str, name: str) -> str:
    """What a back end needs, and whether it is there."""
    if name == "none":
        words = {"captioner": "No captions will be made.", "transcriber": "No lyrics will be written down."}[part]
        return html.notice(f"{part.capitalize()}: none", [words])
    engine = ENGINES[part][name]
    if name in SERVICES:
        where = f"Songs are sent to {host_of(config, name)}."
        ready = has_key(name)
        state = "Its key is set." if ready else "Its key is not set: type it below, or set it in the environment."
        return html.notice(engine.label, [engine.help, where, state], "good" if ready else "warn")
    found = _folder_of(getattr(config, _MODELS[part]), config)
    if found:
        return html.notice(f"{part.capitalize()}: {engine.label}", [engine.help, f"Found in {found}."], "good")
    lack = "It is not on this computer; the run downloads it first." if config.download else "It is not here."
    return html.notice(f"{part.capitalize()}: {engine.label}", [engine.help, lack], "warn")


def _folder_of(model: str, config: CaptionJob) -> Path | None:
    path = typed_path(model)
    base = model.strip().rpartition("/")[2]
    workspace = [path, *(root / base for root in checkpoint_roots(config.checkpoints))]
    return next((place for place in workspace if base and (place / "config.json").is_file()), None)


def _key_state(name: str) -> str:
    if not has_key(name):
        return "not set"
    try:
        return f"set (...{find_key(SERVICES[name])[-4:]})"
    except AceStepError as error:
        return str(error)
