"""Checkpoints that something happened to."""

from __future__ import annotations

from pathlib import Path


def damage(checkpoint: Path, kind: str, name: str = "a.pt") -> None:
    file = checkpoint / name
    content = file.read_bytes()
    if kind == "short":
        file.write_bytes(content[:-1])
    elif kind == "flipped":
        file.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    elif kind == "gone":
        file.unlink()
    elif kind == "no manifest":
        (checkpoint / "manifest.json").unlink()
    elif kind == "bad manifest":
        (checkpoint / "manifest.json").write_text("{")
