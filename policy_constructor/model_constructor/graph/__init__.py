"""From checked description to a running torch.fx module."""
