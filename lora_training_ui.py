"""The trainer's page. Start it with ``python launch.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gradio as gr


def build_page() -> gr.Blocks:
    """The page, not yet served."""
    from acestep.ui.placeholder import build_trainer

    return build_trainer()


if __name__ == "__main__":
    raise SystemExit("Start the trainer with: python launch.py")
