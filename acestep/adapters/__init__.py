"""Adapters: small trained additions to the decoder, put in, taken out, saved and read again.

``configs`` holds the table of kinds and imports without torch; ``files`` holds what callers use.
"""
