"""Development scripts: measurements, long drills and screenshots. Run one with ``python -m dev.NAME --help``."""
