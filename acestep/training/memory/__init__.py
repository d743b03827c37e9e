"""Memory of a run: the estimate before it starts, suggestions to make it fit, and the monitor while it runs."""
