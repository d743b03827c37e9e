"""What a run keeps: its folder, checkpoints, best model, EMA weights and random state."""
