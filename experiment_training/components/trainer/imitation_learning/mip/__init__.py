"""The minimal iterative policy: two supervised steps."""
