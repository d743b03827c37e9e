"""Preprocessing: encodes the audio and labels of a dataset to training tensors, in one or two passes."""
