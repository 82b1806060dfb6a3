"""Small helpers without knowledge of any other room."""
