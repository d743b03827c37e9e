"""Speed measurements: variants of the same work, in alternation, relative to each other (docs/PERFORMANCE.md)."""
