"""The HTML pages: the report of a run, and what they are made of."""
