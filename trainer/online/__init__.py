"""Training while robots collect: replay, weights that travel to them, and the robots themselves, on Ray."""
