"""What every HTML page of the project is made of: one look, charts, numbers as text, one file."""
