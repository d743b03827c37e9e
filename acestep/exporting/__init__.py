"""Export, import, merge, resize, blend and evaluate trained adapters."""
