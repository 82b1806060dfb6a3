"""Autoencoders between whose embeddings information is measured."""
