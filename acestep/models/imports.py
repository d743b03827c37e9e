"""Import diffusers, PEFT and LyCORIS without loading bitsandbytes, which they import if it is installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_NAME = "bitsandbytes"


@contextmanager
def without_bitsandbytes() -> Iterator[None]:
    """Make bitsandbytes look absent, unless it is already loaded.

    PEFT, which diffusers imports, and LyCORIS import it to recognize its quantized layers. A decoder here has none of
    them: ``acestep.models.quantize`` has its own. Importing bitsandbytes 0.50 takes about 1.5 s because it calls
    ``torch.compile``, which loads the compiler. Code that needs bitsandbytes imports it as usual afterwards.
    """
    hidden = _NAME not in sys.modules
    if hidden:
        sys.modules[_NAME] = None  # type: ignore[assignment]  # Python then raises ModuleNotFoundError on import
    try:
        yield
    finally:
        if hidden:
            sys.modules.pop(_NAME, None)
