"""API keys of online services.

A key comes from an argument, from this process's memory (the password field of the page) or from the environment. It
is never written to a file or a log.
"""

from __future__ import annotations

import os

from acestep.captioning.backends import Backend, online_services
from acestep.core.errors import ServiceRefused

_typed_keys: dict[str, str] = {}


def remember_key(service: str, key: str) -> None:
    """Keep a typed key in memory. An empty key removes it."""
    _typed_keys.pop(service, None)
    if key.strip():
        _typed_keys[service] = key.strip()


def typed_keys_as_environment() -> dict[str, str]:
    """Environment variable -> typed key, for worker processes of the same job."""
    entries = online_services()
    return {
        entries[name].key_variables[0]: key
        for name, key in _typed_keys.items()
        if name in entries and entries[name].key_variables
    }


def has_key(service: Backend) -> bool:
    """Whether a key was typed or is in the environment. Always True for a service without keys."""
    variables = service.key_variables
    return not variables or bool(_typed_keys.get(service.name) or any(os.environ.get(name) for name in variables))


def find_key(service: Backend, given: str | None = None, *, required: bool = True) -> str:
    """Return the key to use: ``given``, else the typed one, else the environment's.

    Returns:
        "" if there is no key and none is ``required``.

    Raises:
        ServiceRefused: there is no key, or it contains characters that no key contains.
    """
    candidates = [given, _typed_keys.get(service.name), *(os.environ.get(name) for name in service.key_variables)]
    key = next((key.strip() for key in candidates if key and key.strip()), "")
    if not key and required and service.key_variables:
        raise ServiceRefused(
            f"no key for {service.service}",
            hint=f"Set the environment variable {service.key_variables[0]}, or type the key.",
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ServiceRefused(f"the key for {service.service} contains invalid characters", hint="Copy the key again.")
    return key
