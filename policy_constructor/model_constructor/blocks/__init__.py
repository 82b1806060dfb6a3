"""Building blocks of policies, one family a file."""
