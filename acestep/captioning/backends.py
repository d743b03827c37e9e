"""Registries of captioners and transcribers.

To add a service, write one module with a function ``(config: CaptionJob, report: Report) -> Captioner`` or
``-> Transcriber``, and register it here. Facts that are left out count as unknown and are shown as unknown. The page,
the command line, the cost note and the API keys all read these entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from acestep.captioning.omni_memory import gpu_requirement
from acestep.core.registry import Entry, Registry


@dataclass(frozen=True, kw_only=True)
class Backend(Entry[Any]):
    """One captioner or transcriber.

    Attributes:
        service: name of the online service in messages; empty if the model runs on this computer.
        requires: requirements besides an API key, for display.
        key_variables: environment variables that may hold the API key, in order of preference.
        url, model: default address and model.
        url_option, model_option: config fields that override them; empty if there is none.
        usd_per_minute: price in US dollars per minute of audio.
        price_date: when that price was looked up, such as "November 2026".
        max_upload_bytes: largest file the service accepts.
        seconds_per_song: typical time for a song of three minutes.
        with_lyrics: a captioner that can return lyrics in the same request.
    """

    service: str = ""
    requires: str = ""
    key_variables: tuple[str, ...] = ()
    url: str = ""
    url_option: str = ""
    model: str = ""
    model_option: str = ""
    usd_per_minute: float | None = None
    price_date: str = ""
    max_upload_bytes: int | None = None
    seconds_per_song: float | None = None
    with_lyrics: bool = False

    @property
    def is_online(self) -> bool:
        return bool(self.service)

    def url_in(self, config: Any) -> str:
        """The service address that a job with this config uses."""
        return str(getattr(config, self.url_option)) if self.url_option else self.url

    def model_in(self, config: Any) -> str:
        """The model that a job with this config uses."""
        return str(getattr(config, self.model_option)) if self.model_option else self.model


CAPTIONERS: Registry[Backend] = Registry("captioner", Backend)
TRANSCRIBERS: Registry[Backend] = Registry("transcriber", Backend)


def online_services() -> dict[str, Backend]:
    """Name -> entry of each registered online service. A service in both registries appears once."""
    entries = (*TRANSCRIBERS, *CAPTIONERS)
    return {entry.name: entry for entry in entries if entry.is_online}


# Prices were copied from the providers' price lists and not checked against bills. Times for local models assume a
# 24 GB GPU; all times are rough.
_LOCAL: dict[str, Any] = {
    "help": "Nothing leaves this computer.",
    "requires": f"A 22 GB download, and {gpu_requirement()}.",
    "seconds_per_song": 30.0,
}
_GEMINI: dict[str, Any] = {
    "target": "acestep.captioning.gemini:backend",
    "label": "Online: Google Gemini",
    "help": "Sends each song to Google. Returns caption, lyrics and metadata in one request.",
    "service": "Google Gemini",
    "key_variables": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "url": "https://generativelanguage.googleapis.com",
    "url_option": "gemini_url",
    "model": "gemini-flash-latest",
    "model_option": "gemini_model",
    "usd_per_minute": 0.003,
    "price_date": "November 2026",
    "max_upload_bytes": 2000 * 2**20,
    "seconds_per_song": 15.0,
    "with_lyrics": True,
}

CAPTIONERS.register(
    "local",
    target="acestep.captioning.local:LocalCaptioner.load",
    label="On this computer: ACE-Step captioner",
    model="ACE-Step/acestep-captioner",
    model_option="captioner_model",
    **_LOCAL,
)
CAPTIONERS.register("gemini", **_GEMINI)

TRANSCRIBERS.register(
    "local",
    target="acestep.captioning.local:LocalTranscriber.load",
    label="On this computer: ACE-Step transcriber",
    model="ACE-Step/acestep-transcriber",
    model_option="transcriber_model",
    **_LOCAL,
)
TRANSCRIBERS.register(
    "whisper",
    target="acestep.captioning.whisper:backend",
    label="Online: OpenAI Whisper or an OpenAI-compatible server",
    help="Sends each song to OpenAI or to the server at the Whisper address.",
    service="OpenAI Whisper",
    key_variables=("OPENAI_API_KEY",),
    url="https://api.openai.com/v1",
    url_option="openai_url",
    model="whisper-1",
    model_option="whisper_model",
    usd_per_minute=0.006,
    price_date="November 2026",
    max_upload_bytes=25 * 2**20,
    seconds_per_song=15.0,
)
TRANSCRIBERS.register(
    "elevenlabs",
    target="acestep.captioning.elevenlabs:backend",
    label="Online: ElevenLabs Scribe",
    help="Sends each song to ElevenLabs.",
    service="ElevenLabs Scribe",
    key_variables=("ELEVENLABS_API_KEY",),
    url="https://api.elevenlabs.io",
    url_option="elevenlabs_url",
    model="scribe_v2",
    model_option="elevenlabs_model",
    usd_per_minute=0.0067,
    price_date="November 2026",
    max_upload_bytes=1000 * 2**20,
    seconds_per_song=15.0,
)
TRANSCRIBERS.register("gemini", **_GEMINI)
