"""The captioner's page: songs, engine, run, review, system."""
