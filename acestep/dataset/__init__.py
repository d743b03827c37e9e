"""Datasets: scanning audio folders, reading labels, the dataset file, and the text of each sample. Without torch."""
