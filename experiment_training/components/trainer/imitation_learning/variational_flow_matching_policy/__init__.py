"""Variational flow matching by a mixture of experts."""
