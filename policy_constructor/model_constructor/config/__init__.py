"""Model YAML to resolved plain data; nothing here imports torch."""
