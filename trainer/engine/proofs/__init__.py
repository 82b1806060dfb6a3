"""Proofs: what a run promises, measured on two real updates before it begins."""
