"""The page of all components is made from the registries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from trainer.engine.registered import parameters_of

ROOT = Path(__file__).parents[2]


def test_the_page_in_docs_is_the_one_that_the_registries_give() -> None:
    command = [sys.executable, "-m", "trainer.engine.component_reference"]
    made = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    page = (ROOT / "docs/components.md").read_text(encoding="utf-8")
    assert made.stdout == page, "run the command at the top of docs/components.md"
    row = "| `integration_method` | `euler` or `midpoint` or `dopri5` | `euler` | `euler`, `midpoint` (two"
    assert row in page


def test_every_component_of_the_shipped_experiments_stands_on_the_page() -> None:
    page = (ROOT / "docs/components.md").read_text(encoding="utf-8")
    files = [*(ROOT / "examples/configs").glob("*.yaml"), *(ROOT / "experiment_training").rglob("*.yaml")]
    named = set()
    for file in files:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        sections = [config.get("data", {}).get("datamodule"), config.get("train", {}).get("trainer")]
        sections += (config.get("model", {}).get("component_optims") or {}).values()
        named |= {section["type"] for section in sections if section and "type" in section}
    named -= {"reaching_dataset_factory", "state_regression_trainer"}  # of examples/extensions
    assert len(named) > 12
    assert [key for key in sorted(named) if f"### `{key}`" not in page] == []


def test_what_a_base_says_of_an_argument_counts_where_the_class_says_nothing() -> None:
    class Base:
        """Base.

        Args:
            rate: from the base.
            size: of
                two lines.
        """

        def __init__(self, rate: float, size: int = 1) -> None: ...

    class Own(Base):
        """Own.

        Args:
            rate: its own.
        """

    found, _ = parameters_of([Own], [Own], frozenset())
    assert [(one.name, one.meaning) for one in found] == [("rate", "its own."), ("size", "of two lines.")]
