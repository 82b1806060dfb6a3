"""Checkpoints: folders that exist whole or not at all, written beside the training."""
