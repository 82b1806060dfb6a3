"""Flow matching on low-dimensional observations."""
