"""Loss factories."""
