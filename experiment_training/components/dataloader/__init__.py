"""Dataset factories."""
