"""The programs an adapter can be written for. Imports without torch: each entry names where its code is."""

from __future__ import annotations

from typing import ClassVar

from acestep.core.config import Config
from acestep.core.registry import Registry


class ExportConfig(Config):
    """Base of the settings of one target. ``implementation`` is the dotted name of a ``package.Writer``."""

    implementation: ClassVar[str]


TARGETS: Registry[type[ExportConfig]] = Registry("export target")


@TARGETS.register(
    "acestep",
    label="ACE-Step app",
    help="A folder for the app's adapter box. A LoRA's file in it works in ComfyUI and diffusers too.",
)
class AceStepExport(ExportConfig):
    """The adapter's two files in a folder named after the run, since the app names adapters after their folder."""

    implementation = "acestep.exporting.package:write_folder"
