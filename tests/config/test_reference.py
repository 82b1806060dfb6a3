"""The page of all keys is made from the schema."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_in_docs_is_the_one_that_the_schema_gives() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "trainer.config.reference"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert made.stdout == (ROOT / "docs/experiment.md").read_text(encoding="utf-8")
    assert "| `train.ema.decay` | number | `0.999` |" in made.stdout
