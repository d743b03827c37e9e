"""Online services: API keys and prices.

A key comes from an argument, from this process's memory (the password field of the page) or from the environment. It
is never written to a file or a log.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from acestep.core.errors import ServiceRefused


@dataclass(frozen=True, slots=True)
class Service:
    """A service and what its use takes. ``usd_per_minute`` is of sound; prices change, see ``PRICES_OF``."""

    name: str
    label: str
    variables: tuple[str, ...]
    usd_per_minute: float
    max_bytes: int


PRICES_OF = "November 2026"  # when the three prices below were written down; they were not checked against bills
OPENAI = Service("whisper", "OpenAI Whisper", ("OPENAI_API_KEY",), 0.006, 25 * 2**20)
ELEVENLABS = Service("elevenlabs", "ElevenLabs Scribe", ("ELEVENLABS_API_KEY",), 0.0067, 1000 * 2**20)
GEMINI = Service("gemini", "Google Gemini", ("GEMINI_API_KEY", "GOOGLE_API_KEY"), 0.003, 2000 * 2**20)
SERVICES = {service.name: service for service in (OPENAI, ELEVENLABS, GEMINI)}

_remembered: dict[str, str] = {}


def remember_key(service: str, key: str) -> None:
    """Keep a typed key in this program's memory; an empty one forgets it."""
    _remembered.pop(service, None)
    if key.strip():
        _remembered[service] = key.strip()


def keys_for_others() -> dict[str, str]:
    """Typed keys by the names of environment variables, for processes of this program that share the work."""
    return {SERVICES[service].variables[0]: key for service, key in _remembered.items()}


def has_key(service: str) -> bool:
    """Whether a request could be made without asking for a key."""
    return bool(_remembered.get(service) or any(os.environ.get(name) for name in SERVICES[service].variables))


def find_key(service: Service, given: str | None = None, *, needed: bool = True) -> str:
    """The key to use; "" when there is none and none is ``needed``. Raises ServiceRefused."""
    found = [given, _remembered.get(service.name), *(os.environ.get(name) for name in service.variables)]
    key = next((key.strip() for key in found if key and key.strip()), "")
    if not key and needed:
        raise ServiceRefused(
            f"no key for {service.label}", hint=f"Set the environment variable {service.variables[0]}, or type the key."
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ServiceRefused(f"the key for {service.label} has characters that no key has", hint="Copy it again.")
    return key


def cost_note(service: str, total_s: float) -> str:
    """What so many seconds of sound will cost, to be shown before anything is sent."""
    offer = SERVICES[service]
    cost = offer.usd_per_minute * total_s / 60
    amount = "less than 0.01" if cost < 0.01 else f"about {cost:.2f}"
    price = f"about {offer.usd_per_minute:g} USD a minute, the price of {PRICES_OF}"
    return f"{offer.label}: {amount} USD for {total_s / 60:.0f} min of sound, at {price}; look it up before a long run"
