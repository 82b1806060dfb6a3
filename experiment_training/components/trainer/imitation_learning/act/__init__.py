"""ACT: action chunks by a conditional variational transformer."""
