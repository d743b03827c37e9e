"""Optimizers, learning-rate schedules and loss weightings, each in a registry."""
