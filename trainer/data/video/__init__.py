"""Frames in video files: reading any of them, writing them so that any can be read fast."""

from __future__ import annotations
