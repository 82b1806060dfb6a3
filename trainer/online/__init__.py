"""Training on what robots collect meanwhile: replay, weights that travel, rollout workers; actors of Ray."""
