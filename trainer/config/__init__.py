"""Reading, checking and locating the experiment YAML; knows nothing of torch."""
