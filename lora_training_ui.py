"""The trainer's page. Start it with ``python launch.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from acestep.ui.serve import Page


def build_page() -> Page:
    """The page, not yet served."""
    from acestep.core.log import set_up_logging
    from acestep.ui.trainer.app import build_page

    set_up_logging()
    return build_page()


if __name__ == "__main__":
    raise SystemExit("Start the trainer with: python launch.py")
