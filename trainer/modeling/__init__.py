"""Components: built from model YAMLs and prepared for training."""
