"""Names of module types and operations, and what they stand for."""
