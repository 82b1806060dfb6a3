"""Assembling an experiment, the one loop, the step, checkpoints, tracking, deployment."""
