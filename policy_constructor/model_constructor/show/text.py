"""A model's description as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from model_constructor.show.describe import ModelDescription


def count_text(count: int) -> str:
    """`1,234,567`."""
    return f"{count:,}"


def render_text(description: ModelDescription, *, code: bool = False) -> str:
    """The model's size, its modules, its steps with their shapes, and on request the code of `forward`."""
    size = f"{count_text(description.parameters)} parameters"
    if description.trainable != description.parameters:
        size += f", {count_text(description.trainable)} of them trainable"
    parts = [f"{description.title}: {size}, {_bytes(4 * description.parameters)} in float32"]
    total = max(description.parameters, 1)
    rows = [
        (row.name, row.type, count_text(row.parameters), f"{100 * row.parameters / total:.1f} %")
        for row in description.modules
    ]
    if rows:
        parts.append(_table(("module", "type", "parameters", "share"), rows, right=(2, 3)))
    steps = [
        (
            ", ".join(step.names),
            step.call if step.kind in ("input", "output") else f"{step.kind}:{step.call}",
            "; ".join(step.shapes),
            "" if step.line is None else str(step.line),
        )
        for step in description.steps
    ]
    kinds = [{"input": "→ ", "output": "← "}.get(step.kind, "  ") for step in description.steps]
    steps = [(kind + name, *rest) for kind, (name, *rest) in zip(kinds, steps, strict=True)]  # type: ignore[misc]
    parts.append(_table(("  value", "made by", "shape", "line"), steps, right=(3,)))
    parts += [f"note: {note}" for note in description.notes]
    if code:
        parts.append(description.code.rstrip())
    return "\n\n".join(parts) + "\n"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = []
    for row in [head, ["─" * width for width in widths], *rows]:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
