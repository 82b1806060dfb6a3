"""Vision: one contract, image `(B, 3, H, W)` → `(features (B, C, h, w), summary (B, D))`."""
