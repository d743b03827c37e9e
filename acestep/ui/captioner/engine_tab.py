"""2. Engine: the captioner, the transcriber, their requirements, and the API keys of online services."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import gradio as gr

from acestep.captioning.api_keys import find_key, has_key, remember_key
from acestep.captioning.backends import Backend, online_services
from acestep.captioning.configs import CaptionJob
from acestep.core.errors import AceStepError, ConfigError
from acestep.core.paths import checkpoint_roots, typed_path
from acestep.core.untrusted import is_file
from acestep.ui import html, layout
from acestep.ui.captioner.app_state import ENGINES, FORM, LEFT_OUT, AppState
from acestep.ui.captioner.page_context import CaptionerContext
from acestep.ui.errors import notify
from acestep.ui.form import Data, Form


class EngineTab:
    """Components and listeners. ``form`` has all fields of the job except the songs."""

    def __init__(self, page: CaptionerContext) -> None:
        self._app = app = page.app
        self._version = 0
        self.form = Form(CaptionJob, FORM, page.saved_fields, leave_out=LEFT_OUT)
        layout.heading("What to generate")
        with gr.Row(equal_height=False):
            for group in (("captioner", "write_texts"), ("transcriber", "language"), ("measure", "prefer")):
                with gr.Column(min_width=280):
                    self.form.place(*group)
        needs = gr.HTML(elem_id="cp-needs")
        self.form.place("existing", "custom_tag", "csv")
        with layout.section("Keys of online services", "cp-keys"):
            keys = gr.HTML(elem_id="cp-keys-state")
            with layout.grid():
                self._services = [service for service in online_services().values() if service.key_variables]
                self._keys = {service.name: self._key_field(service) for service in self._services}
            with layout.actions():
                use = gr.Button("Use these keys", elem_id="cp-keys-use")
                forget = gr.Button("Forget these keys", elem_id="cp-keys-forget")
        with layout.section("Models on this computer", "cp-models"):
            self.form.place("captioner_model", "transcriber_model", "checkpoints")
            self.form.place("quantization", "download", "device", "dtype")
            self.form.place("max_tokens", "lyrics_max_tokens")
        self.form.place_rest("Advanced", collapsed=True)
        fields = list(self._keys.values())
        for trigger in (use.click, *(field.submit for field in fields)):
            page.on(trigger, self._use, set(fields), fields)
        page.on(forget.click, self._forget, [])
        names = ("captioner", "transcriber", "quantization", "download", *option_names())
        page.live.add(
            [needs, keys],
            lambda: (self._version, *(app.settings.get(f"{FORM}.{name}") for name in (*names, "checkpoints"))),
            self._render,
        )

    def _key_field(self, service: Backend) -> gr.Textbox:
        return gr.Textbox(
            label=f"{service.service} key",
            info=f"Kept in memory until the program exits. Or set {service.key_variables[0]}.",
            type="password",
            html_attributes=gr.InputHTMLAttributes(autocomplete="off"),
            elem_id=f"cp-key-{service.name}",
        )

    def _use(self, data: Data) -> list[str]:
        entered = {service.name: data[self._keys[service.name]] or "" for service in self._services}
        given = [(service, entered[service.name]) for service in self._services if entered[service.name].strip()]
        if not given:
            raise ConfigError(["no key was entered"], hint="Enter one, or set its environment variable.")
        for service, key in given:
            find_key(service, key)  # rejects invalid characters
            remember_key(service.name, key)
        self._version += 1
        notify("The keys are in use until the program exits.")
        return ["" for _ in self._services]

    def _forget(self) -> None:
        for service in self._services:
            remember_key(service.name, "")
        self._version += 1

    def _render(self) -> Sequence[str]:
        config = settings_of(self._app)
        notices = [_needs(config, part, getattr(config, part)) for part in ENGINES]
        rows = [(service.service, _key_state(service)) for service in self._services]
        return "".join(dict.fromkeys(notices)), html.table(["Service", "Key"], rows, "Keys")


def settings_of(app: AppState) -> CaptionJob:
    """The selected settings, also without a folder."""
    try:
        return app.config()
    except ConfigError:
        return app.config_for(Path())


def option_names() -> list[str]:
    """The fields that hold a backend's model or address."""
    entries = [entry for registry in ENGINES.values() for entry in registry]
    names = [name for entry in entries for name in (entry.model_option, entry.url_option) if name]
    return list(dict.fromkeys(names))


def host_of(config: CaptionJob, service: Backend) -> str:
    """The host that receives the audio."""
    return urlsplit(service.url_in(config)).hostname or "an unknown address"


def _needs(config: CaptionJob, part: str, name: str) -> str:
    """What a backend needs, and whether it is available."""
    if name == "none":
        words = {"captioner": "No captions are generated.", "transcriber": "No lyrics are transcribed."}[part]
        return html.notice(f"{part.capitalize()}: none", [words])
    engine = ENGINES[part][name]
    about = [line for line in (engine.help, engine.requires) if line]
    if engine.is_online:
        about.append(f"Audio is sent to {host_of(config, engine)}.")
        ready = has_key(engine)
        if engine.key_variables:
            unset = f"Its key is not set. Enter it below, or set {engine.key_variables[0]}."
            about.append("Its key is set." if ready else unset)
        return html.notice(engine.label, about, "good" if ready else "warn")
    found = _folder_of(engine.model_in(config), config)
    if found:
        return html.notice(f"{part.capitalize()}: {engine.label}", [*about, f"Found in {found}."], "good")
    missing = "The model is missing; the run downloads it first." if config.download else "The model is missing."
    return html.notice(f"{part.capitalize()}: {engine.label}", [*about, missing], "warn")


def _folder_of(model: str, config: CaptionJob) -> Path | None:
    path = typed_path(model)
    base = model.strip().rpartition("/")[2]
    folders = [path, *(root / base for root in checkpoint_roots(config.checkpoints))]
    return next((folder for folder in folders if base and is_file(folder / "config.json")), None)


def _key_state(service: Backend) -> str:
    if not has_key(service):
        return "not set"
    try:
        return f"set (...{find_key(service)[-4:]})"
    except AceStepError as error:
        return str(error)
