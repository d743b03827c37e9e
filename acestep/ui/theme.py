"""How the pages look: one theme for both, light and dark, with the fonts of the computer; nothing is fetched."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

STYLES = Path(__file__).with_name("style.css")
FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Consolas", "monospace"]


def make_theme() -> gr.themes.Base:
    """Gradio's Soft, with a contrast of 4.5 and more for every text (WCAG AA), which its own labels lack."""
    return gr.themes.Soft(
        primary_hue=gr.themes.colors.teal, neutral_hue=gr.themes.colors.slate, font=FONT, font_mono=MONO
    ).set(
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_100",
        block_title_background_fill="transparent",
        block_title_padding="0",
        block_label_text_color="*neutral_800",
        block_label_text_color_dark="*neutral_100",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
    )
