"""Preprocessed tensors: one ``.pt`` file per sample, and the manifest that lists them."""
