"""Songs and labels to training tensors, in one pass or, for small graphics cards, in two."""
