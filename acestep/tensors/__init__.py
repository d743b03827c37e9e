"""What preprocessing hands to training: one ``.pt`` file a song, and the manifest that lists them."""
