"""An inspected dataset as a page."""
