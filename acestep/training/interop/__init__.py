"""Presets and profiles of other trainers, read and written."""
