"""Flow matching by one expert, with a backbone for each camera."""
