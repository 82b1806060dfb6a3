"""Flow matching guided by vector-quantised latent tokens."""
