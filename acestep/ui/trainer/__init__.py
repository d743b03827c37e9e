"""The trainer's page: one file a tab, on what all open pages share (``desk``)."""
