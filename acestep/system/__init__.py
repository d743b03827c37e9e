"""Checks of this computer and of the installed packages. Standard library only."""
