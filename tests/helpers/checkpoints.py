"""Checkpoints that something happened to."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def seal(checkpoint: Path) -> None:
    """Write the manifest anew, so that a checkpoint whose files were changed is whole."""
    path = checkpoint / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in manifest["files"]:
        content = (checkpoint / name).read_bytes()
        manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    path.write_text(json.dumps(manifest))


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
