"""Diffusion Policy: action chunks by denoising."""
