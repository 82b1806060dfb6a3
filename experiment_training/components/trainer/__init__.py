"""Trainers bound to policies."""
