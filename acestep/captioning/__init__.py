"""Songs described in words, measured, and their lyrics written down: by a model here or by a service."""
