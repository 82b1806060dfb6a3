"""Flow matching on three cameras and their depth."""
