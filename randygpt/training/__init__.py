"""Training: text to token windows, optimizers and recipes, the loop, and what a run leaves on disk. Uses torch."""
