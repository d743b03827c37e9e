"""Captions, lyrics and metadata for songs, from local models or online services."""
