"""What all online services have in common: keys, requests that are tried again, limits, prices. httpx, no SDK.

A key comes from the argument, from this program's memory (the page's password field) or from the environment. It is
never written to a file or a log, and cut out of every message that a service sends back.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx

from acestep.core.errors import AudioError, ConfigError, JobCancelled, ServiceError, ServiceRefused

T = TypeVar("T")

_BUSY = (408, 409, 425, 429, 500, 502, 503, 504, 529)
_REFUSED = (401, 402, 403)
_LONGEST_WAIT_S = 120.0
_MESSAGE_LENGTH = 300


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


@dataclass
class Patience:
    """How often and how long to wait for a service. ``wait`` is told how many seconds."""

    retries: int = 4
    timeout_s: float = 300.0
    stop: Callable[[], bool] = lambda: False
    wait: Callable[[float], None] | None = None

    def pause(self, seconds: float) -> None:
        """Wait, looking every now and then whether to stop. Raises JobCancelled."""
        if self.wait is not None:
            return self.wait(seconds)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self.stop():
                raise JobCancelled("stopped by the user")
            time.sleep(min(left, 0.5))
        return None


class TryAgain(Exception):
    """An answer that is worth asking for once more: cut off, or not what was asked for."""


@dataclass
class Client:
    """Requests to one service. Redirects are not followed: a key goes to no other address."""

    service: Service
    url: str
    headers: Mapping[str, str]
    key: str = field(repr=False)
    patience: Patience = field(default_factory=Patience)

    def __post_init__(self) -> None:
        if not self.url.startswith(("https://", "http://")):
            raise ConfigError([f"{self.url!r} is not the address of a service"], hint="It begins with https://.")
        timeout = httpx.Timeout(self.patience.timeout_s, connect=min(20.0, self.patience.timeout_s))
        self._http = httpx.Client(timeout=timeout, headers=dict(self.headers), trust_env=True)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def ask(self, send: Callable[[httpx.Client], httpx.Response], read: Callable[[httpx.Response], T]) -> T:
        """What ``read`` makes of the answer to ``send``, which is called anew for each attempt.

        Raises:
            ServiceRefused: the key is wrong or its credit used up.
            ServiceError: refused, or still no usable answer after all attempts.
            JobCancelled.
        """
        problem = ""
        for attempt in range(self.patience.retries + 1):
            if self.patience.stop():
                raise JobCancelled("stopped by the user")
            delay = min(60.0, 2.0**attempt) * random.uniform(0.8, 1.2)
            try:
                response = send(self._http)
                if response.is_success:
                    return read(response)
                problem = f"answered {response.status_code}: {self._message(response)}"
                self._give_up_if_final(response, problem)
                delay = max(delay, _retry_after_s(response))
            except TryAgain as again:
                problem = str(again)
            except httpx.TimeoutException:
                problem = f"did not answer within {self.patience.timeout_s:g} s"
            except (httpx.TransportError, httpx.StreamError) as broken:
                problem = f"cannot be reached: {self._masked(str(broken)) or type(broken).__name__}"
            if delay > _LONGEST_WAIT_S:
                raise self._error(f"{problem}; it wants to be left alone for {delay:.0f} s", "Try again later.")
            if attempt < self.patience.retries:
                self.patience.pause(delay)
        attempts = self.patience.retries + 1
        raise self._error(f"{problem} (tried {attempts} times)" if attempts > 1 else problem, "Try again later.")

    def _give_up_if_final(self, response: httpx.Response, problem: str) -> None:
        no_credit = "insufficient_quota" in response.text or "quota_exceeded" in response.text
        if response.status_code in _REFUSED or "API_KEY_INVALID" in response.text or no_credit:
            hint = "Check the credit of the account." if no_credit or response.status_code == 402 else "Check the key."
            raise ServiceRefused(f"{self.service.label} {problem}", hint=hint)
        if response.status_code not in _BUSY:
            raise self._error(problem, "")

    def _error(self, problem: str, hint: str) -> ServiceError:
        return ServiceError(f"{self.service.label} {problem}", hint=hint)

    def _message(self, response: httpx.Response) -> str:
        """The service's own words, wherever it puts them."""
        try:
            said: Any = response.json()
        except ValueError:
            said = response.text
        while isinstance(said, dict):
            said = next((said[key] for key in ("error", "detail", "message", "status") if said.get(key)), str(said))
        return self._masked(" ".join(str(said).split()))[:_MESSAGE_LENGTH] or response.reason_phrase

    def _masked(self, text: str) -> str:
        return text.replace(self.key, "***") if self.key else text


def json_of(response: httpx.Response) -> dict[str, Any]:
    """The answer's JSON object. Raises TryAgain."""
    try:
        data = response.json()
    except ValueError:
        raise TryAgain(f"answered something that is not JSON: {' '.join(response.text[:80].split())!r}") from None
    if not isinstance(data, dict):
        raise TryAgain("answered JSON of an unknown form")
    return data


def size_of(path: Path, service: Service) -> int:
    """Bytes of a file that is to be sent. Raises AudioError: not there, empty, more than the service takes."""
    try:
        size = path.stat().st_size
    except OSError as problem:
        raise AudioError(f"{path} cannot be read: {problem.strerror}") from None
    if not size:
        raise AudioError(f"{path} is empty", hint="Copy or download it again.")
    if size > service.max_bytes:
        limit = f"{service.label} takes at most {service.max_bytes / 2**20:.0f} MB"
        raise AudioError(f"{path} has {size / 2**20:.0f} MB, {limit}", hint="Convert it to MP3.")
    return size


def _retry_after_s(response: httpx.Response) -> float:
    """Seconds from a Retry-After header, which holds a number or a date."""
    value = response.headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
