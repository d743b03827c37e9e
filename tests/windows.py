"""Errors of Windows, made on any system."""

# Windows error code -> errno, as Python translates it (PC/errmap.h of CPython).
_ERRNO = {2: 2, 3: 2, 5: 13, 19: 13, 32: 13, 39: 22, 112: 28, 123: 22, 206: 2, None: 5}


def windows_error(code: int | None) -> OSError:
    """The OSError that Python raises on Windows for this error code; None for an error of no system call."""
    problem = OSError(_ERRNO[code], "simulated", None, code)
    if getattr(problem, "winerror", None) != code:
        problem.winerror = code  # type: ignore[attr-defined]  # other systems have no such attribute
    return problem
