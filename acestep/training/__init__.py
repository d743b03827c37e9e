"""Training: songs as tensors in, adapter out. ``configs`` imports without torch; ``trainer`` holds the job."""
