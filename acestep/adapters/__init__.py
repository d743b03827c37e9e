"""Adapters: parameter-efficient additions to the decoder. Inject, remove, save and load them.

``configs`` holds the registry of adapter kinds and does not import torch; ``files`` holds the functions for callers.
"""
