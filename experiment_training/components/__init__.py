"""Registered datasets, losses, optimizers and trainers."""
