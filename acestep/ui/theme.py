"""The theme of both pages, light and dark. It uses system fonts and loads nothing from the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

STYLES = Path(__file__).with_name("style.css")
FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Consolas", "monospace"]


# Fields have no background of their own; only inputs have a border.
_LINES: dict[str, Any] = {
    "body_background_fill": "white",
    "block_background_fill": "transparent",
    "block_background_fill_dark": "transparent",
    "block_border_width": "0px",
    "block_border_width_dark": "0px",
    "block_shadow": "none",
    "block_shadow_dark": "none",
    "block_padding": "4px 0",
    "block_title_padding": "0",
    "block_title_background_fill": "transparent",
    "block_title_text_weight": "600",
    "form_gap_width": "0px",
    "color_accent": "*primary_700",
    "slider_color": "*primary_600",
    "checkbox_border_width": "1px",
    "checkbox_border_color": "*neutral_400",
    "checkbox_border_color_dark": "*neutral_400",
    "checkbox_label_border_width": "1px",
    "checkbox_label_border_color": "*neutral_300",
    "checkbox_label_border_color_dark": "*neutral_600",
    "checkbox_label_shadow": "none",
    "button_primary_shadow": "none",
    "button_secondary_shadow": "none",
    "layout_gap": "14px",
    "input_background_fill": "white",
    "input_background_fill_dark": "*neutral_800",
    "input_border_width": "1px",
    "input_border_color": "*neutral_300",
    "input_border_color_dark": "*neutral_600",
    "input_border_color_focus": "*primary_600",
    "input_shadow": "none",
    "input_shadow_dark": "none",
    "button_secondary_background_fill": "white",
    "button_secondary_background_fill_dark": "*neutral_700",
    "button_secondary_background_fill_hover": "*neutral_100",
    "button_secondary_background_fill_hover_dark": "*neutral_600",  # a disabled button has this color too
    "button_cancel_background_fill_hover_dark": "*neutral_600",
    "button_secondary_border_color": "*neutral_300",
    "button_secondary_border_color_dark": "*neutral_600",
    "button_border_width": "1px",
    "button_border_width_dark": "1px",
    "button_large_text_size": "*text_md",
    "button_large_padding": "8px 16px",
    "button_large_text_weight": "600",
}

# A contrast of at least 4.5 for all text (WCAG AA), which the labels of Soft do not have.
_CONTRAST: dict[str, Any] = {
    "block_title_text_color": "*neutral_800",
    "block_title_text_color_dark": "*neutral_100",
    "block_label_text_color": "*neutral_800",
    "block_label_text_color_dark": "*neutral_100",
    "block_info_text_color": "*neutral_600",
    "block_info_text_color_dark": "*neutral_300",
    "input_placeholder_color": "*neutral_500",
    "input_placeholder_color_dark": "*neutral_400",
    "body_text_color_subdued": "*neutral_600",
    "body_text_color_subdued_dark": "*neutral_300",
    "button_primary_background_fill": "*primary_700",
    "button_primary_background_fill_dark": "*primary_700",
    "button_primary_background_fill_hover": "*primary_800",
    "button_primary_background_fill_hover_dark": "*primary_600",
    "button_primary_text_color": "white",
    "checkbox_label_background_fill_selected": "*primary_100",
    "checkbox_label_background_fill_selected_dark": "*primary_900",
    "checkbox_label_text_color_selected": "*primary_900",
    "checkbox_label_text_color_selected_dark": "*primary_100",
}


def make_theme() -> gr.themes.Base:
    """Gradio's Soft theme with fewer boxes and more contrast."""
    theme = gr.themes.Soft(
        primary_hue=gr.themes.colors.teal,
        secondary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_md,
        font=FONT,
        font_mono=MONO,
    )
    return theme.set(**_LINES, **_CONTRAST)
