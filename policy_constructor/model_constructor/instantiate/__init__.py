"""Building the objects that specs describe."""
