"""A model's description as a drawing: inputs on top, every call a box with its shapes, outputs below."""

from __future__ import annotations

from html import escape

from model_constructor.show.describe import ModelDescription, StepRow
from model_constructor.show.layout import Box, Layout, place
from model_constructor.show.text import count_text

_MARGIN, _TITLE = 24, 44
_LINE = 17
_PADDING = 12
_FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
_STYLE = """
text { font: 12px FONT; fill: #24303c; text-anchor: middle; }
.title { font-size: 15px; font-weight: 600; text-anchor: start; }
.size { fill: #5b6875; text-anchor: start; }
.name { font-weight: 600; }
.call { fill: #5b6875; }
.shape { fill: #0b6b57; font-family: ui-monospace, 'DejaVu Sans Mono', monospace; font-size: 11px; }
rect { stroke-width: 1.2; }
.module rect { fill: #e8f0fb; stroke: #5b87c5; }
.op rect { fill: #f4f5f7; stroke: #a3acb6; }
.input rect { fill: #e5f5ee; stroke: #4fa287; }
.output rect { fill: #fdf0e1; stroke: #d39142; }
path.edge { fill: none; stroke: #8b96a3; stroke-width: 1.4; }
""".replace("FONT", _FONT)


def render_svg(description: ModelDescription) -> str:
    """The drawing as the text of an SVG file; it needs nothing outside itself."""
    lines = {step.id: _lines(step, description) for step in description.steps}
    boxes = [
        Box(
            step.id,
            max(_width(text, kind) for kind, text in lines[step.id]) + 2 * _PADDING,
            _height(lines[step.id]),
        )
        for step in description.steps
    ]
    edges = [(source, step.id) for step in description.steps for source in step.sources]
    last = [step.id for step in description.steps if step.kind == "output"]
    layout = place(boxes, edges, last)
    by_id = {step.id: step for step in description.steps}
    size = f"{count_text(description.parameters)} parameters"
    width = max(layout.width, _width(description.title, "title"), _width(size, "size")) + 2 * _MARGIN
    height = layout.height + 2 * _MARGIN + _TITLE
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(description.title)}">',
        f"<style>{_STYLE}</style>",
        '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0.8 L7.5 4 L0 7.2 z" fill="#8b96a3"/></marker>',
        '<rect width="100%" height="100%" fill="#ffffff" stroke="none"/>',
        f'<text class="title" x="{_MARGIN}" y="{_MARGIN + 8}">{escape(description.title)}</text>',
        f'<text class="size" x="{_MARGIN}" y="{_MARGIN + 27}">{size}</text>',
        f'<g transform="translate({(width - layout.width) / 2:.1f} {_MARGIN + _TITLE})">',
        *_edges(layout),
        *(_box(box, by_id[box.id], lines[box.id]) for box in layout.boxes),
        "</g>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _lines(step: StepRow, description: ModelDescription) -> list[tuple[str, str]]:
    """The lines of text in a step's box, each with the class that it is drawn in."""
    lines = [("name", ", ".join(step.names))]
    if step.kind == "module":
        module = next((row for row in description.modules if row.name == step.call), None)
        lines[0] = ("name", step.call)
        if module is not None:
            learned = f" · {count_text(module.parameters)}" if module.parameters else ""
            lines.append(("call", module.type + learned))
    elif step.kind == "op":
        lines[0] = ("name", step.call)
    shapes = ", ".join(shape for shape in step.shapes if shape)
    if shapes:
        lines.append(("shape", shapes if len(shapes) <= 44 else shapes[:43] + "…"))
    return lines


def _width(text: str, kind: str) -> float:
    """About how wide a text is in its class's font, in pixels."""
    per_letter = {"name": 7.3, "call": 6.7, "shape": 6.7, "title": 9.2, "size": 6.7}[kind]
    return per_letter * len(text)


def _height(lines: list[tuple[str, str]]) -> float:
    return _LINE * len(lines) + _PADDING


def _box(box: Box, step: StepRow, lines: list[tuple[str, str]]) -> str:
    left, radius = box.x - box.width / 2, box.height / 2 if step.kind in ("input", "output") else 6
    made = ", ".join(step.names)
    place_text = f", line {step.line}" if step.line is not None else ""
    texts = "".join(
        f'<text class="{kind}" x="{box.x:.1f}" y="{box.y + _PADDING / 2 + _LINE * (index + 0.74):.1f}">'
        f"{escape(text)}</text>"
        for index, (kind, text) in enumerate(lines)
    )
    return (
        f'<g class="{step.kind}"><title>{escape(made)}{place_text}</title>'
        f'<rect x="{left:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" '
        f'rx="{radius:.1f}"/>'
        f"{texts}</g>"
    )


def _edges(layout: Layout) -> list[str]:
    """Each edge as a curve that leaves and enters boxes vertically."""
    drawn = []
    for route in layout.edges:
        x, y = route[0].x, route[0].y + route[0].height
        curve = f"M{x:.1f} {y:.1f}"
        for box in route[1:]:
            half = (box.y - y) / 2
            curve += f" C{x:.1f} {y + half:.1f} {box.x:.1f} {box.y - half:.1f} {box.x:.1f} {box.y:.1f}"
            x, y = box.x, box.y
        drawn.append(f'<path class="edge" d="{curve}" marker-end="url(#tip)"/>')
    return drawn
