"""HTTP requests to online services: retries, error messages and upload limits. Uses httpx2; no SDK is needed."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import httpx2
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from acestep.core.errors import AudioError, ConfigError, JobCancelled, ServiceError, ServiceRefused
from acestep.core.retry import sleep_unless_stopped

T = TypeVar("T")

_RETRYABLE_STATUS = (408, 409, 425, 429, 500, 502, 503, 504, 529)
_REFUSED_STATUS = (401, 402, 403)
_MAX_WAIT_S = 120.0  # a service that asks for more is reported at once
_CONNECT_TIMEOUT_S = 20.0
_MAX_MESSAGE_CHARS = 300
_backoff = wait_exponential(max=60.0)  # 1, 2, 4 ... seconds


@dataclass
class RetryPolicy:
    """How often and how long to wait for a service.

    Args:
        retries: attempts after the first one.
        timeout_s: limit for one request, in seconds.
        stop: checked before each attempt and while waiting.
        wait: replaces the sleep between attempts; receives seconds.
    """

    retries: int = 4
    timeout_s: float = 300.0
    stop: Callable[[], bool] = lambda: False
    wait: Callable[[float], None] | None = None

    def sleep(self, seconds: float) -> None:
        """Wait between attempts. Raises JobCancelled."""
        if self.wait is not None:
            self.wait(seconds)
        else:
            sleep_unless_stopped(seconds, self.stop)


class RetryableError(Exception):
    """An attempt failed in a way that another attempt may fix. ``retry_after_s`` is the shortest wait before it."""

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass
class ServiceClient:
    """Sends requests to one service. Does not follow redirects, so the key reaches no other address.

    Args:
        label: the service's name in messages.
        url: base address of the service.
        headers: sent with every request.
        key: removed from every message that the service returns.
    """

    label: str
    url: str
    headers: Mapping[str, str]
    key: str = field(repr=False)
    retry_policy: RetryPolicy = field(default_factory=RetryPolicy)

    def __post_init__(self) -> None:
        if not self.url.startswith(("https://", "http://")):
            raise ConfigError([f"{self.url!r} is not a service address"], hint="An address starts with https://.")
        limit_s = self.retry_policy.timeout_s
        timeout = httpx2.Timeout(limit_s, connect=min(_CONNECT_TIMEOUT_S, limit_s))
        self._http = httpx2.Client(timeout=timeout, headers=dict(self.headers), trust_env=True)

    def __enter__(self) -> ServiceClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def request(self, send: Callable[[httpx2.Client], httpx2.Response], read: Callable[[httpx2.Response], T]) -> T:
        """Return ``read(send(client))``. Each attempt calls ``send`` again.

        Raises:
            ServiceRefused: the key is wrong or its credit is used up.
            ServiceError: another final error, or no usable response after all attempts.
            JobCancelled.
        """
        attempts = Retrying(
            retry=retry_if_exception_type(RetryableError),
            stop=stop_after_attempt(self.retry_policy.retries + 1),
            wait=_wait_s,
            sleep=self.retry_policy.sleep,
            retry_error_callback=self._raise_final,
        )
        answer: T = attempts(self._attempt, send, read)
        return answer

    def _attempt(self, send: Callable[[httpx2.Client], httpx2.Response], read: Callable[[httpx2.Response], T]) -> T:
        if self.retry_policy.stop():
            raise JobCancelled("stopped by the user")
        try:
            response = send(self._http)
            if not response.is_success:
                self._raise_for_status(response)
            return read(response)
        except httpx2.TimeoutException:
            raise RetryableError(f"did not answer within {self.retry_policy.timeout_s:g} s") from None
        except (httpx2.TransportError, httpx2.StreamError) as error:
            reason = self._without_key(str(error)) or type(error).__name__
            raise RetryableError(f"cannot be reached: {reason}") from None

    def _raise_for_status(self, response: httpx2.Response) -> NoReturn:
        """Raise the error that matches a failed response: ServiceRefused, ServiceError or RetryableError."""
        problem = f"answered {response.status_code}: {self._message(response)}"
        no_credit = "insufficient_quota" in response.text or "quota_exceeded" in response.text
        if response.status_code in _REFUSED_STATUS or "API_KEY_INVALID" in response.text or no_credit:
            hint = "Check the credit of the account." if no_credit or response.status_code == 402 else "Check the key."
            raise ServiceRefused(f"{self.label} {problem}", hint=hint)
        if response.status_code not in _RETRYABLE_STATUS:
            raise ServiceError(f"{self.label} {problem}")
        retry_after_s = _retry_after_s(response)
        if retry_after_s > _MAX_WAIT_S:
            message = f"{self.label} {problem}; rate-limited for {retry_after_s:.0f} s"
            raise ServiceError(message, hint="Try again later.")
        raise RetryableError(problem, retry_after_s)

    def _raise_final(self, state: RetryCallState) -> NoReturn:
        """Report the last attempt's problem."""
        problem = str(state.outcome.exception()) if state.outcome else ""
        attempts = f" (tried {state.attempt_number} times)" if state.attempt_number > 1 else ""
        raise ServiceError(f"{self.label} {problem}{attempts}", hint="Try again later.") from None

    def _message(self, response: httpx2.Response) -> str:
        """The error message in the response, under any known key."""
        try:
            answer: Any = response.json()
        except ValueError:
            answer = response.text
        while isinstance(answer, dict):
            keys = ("error", "detail", "message", "status")
            answer = next((answer[key] for key in keys if answer.get(key)), str(answer))
        return self._without_key(" ".join(str(answer).split()))[:_MAX_MESSAGE_CHARS] or response.reason_phrase

    def _without_key(self, text: str) -> str:
        return text.replace(self.key, "***") if self.key else text


def json_object(response: httpx2.Response) -> dict[str, Any]:
    """Return the response's JSON object. Raises RetryableError."""
    try:
        data = response.json()
    except ValueError:
        start = " ".join(response.text[:80].split())
        raise RetryableError(f"answered something that is not JSON: {start!r}") from None
    if not isinstance(data, dict):
        raise RetryableError("answered JSON that is not an object")
    return data


def upload_size(path: Path, label: str, max_bytes: int | None) -> int:
    """Return the size in bytes of a file to upload.

    Args:
        label: the service's name in messages.
        max_bytes: the service's limit; None if it is unknown.

    Raises:
        AudioError: the file is missing, empty, or larger than ``max_bytes``.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise AudioError(f"{path} cannot be read: {error.strerror}") from None
    if not size:
        raise AudioError(f"{path} is empty", hint="Copy or download it again.")
    if max_bytes is not None and size > max_bytes:
        limit = f"{label} accepts at most {max_bytes / 2**20:.0f} MB"
        raise AudioError(f"{path} has {size / 2**20:.0f} MB, {limit}", hint="Convert it to MP3.")
    return size


def _wait_s(state: RetryCallState) -> float:
    """Exponential backoff with 20 % jitter, or the service's Retry-After if that is longer."""
    error = state.outcome.exception() if state.outcome else None
    retry_after_s = error.retry_after_s if isinstance(error, RetryableError) else 0.0
    return max(_backoff(state) * random.uniform(0.8, 1.2), retry_after_s)


def _retry_after_s(response: httpx2.Response) -> float:
    """Seconds in the Retry-After header, which contains a number or a date (RFC 9110, section 10.2.3)."""
    value = response.headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
