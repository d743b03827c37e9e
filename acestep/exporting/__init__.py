"""What a trained adapter becomes for other programs."""
