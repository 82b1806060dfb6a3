"""Trainers that learn from demonstrations."""
