"""Training: data, optimizers, recipes, the training loop and its files. Uses torch."""
