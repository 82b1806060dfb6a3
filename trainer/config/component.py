"""What the sections of the schema share: the spec of a registered component, and what may change in a run."""

from __future__ import annotations

from typing import Any

from pydantic import Field, JsonValue

from trainer.config.section import Section

# A run that is taken up may have another value here: the numbers that it trains with stay the same.
MAY_CHANGE: dict[str, JsonValue] = {"resume": "may_change"}


class ComponentSpec(Section):
    """Something picked from a registry."""

    type: str = Field(min_length=1, description="registry key")
    params: dict[str, Any] = Field(default_factory=dict, description="constructor arguments")
