"""The demo: the complete workflow on a tiny model and generated songs, and a check that it learned."""
