"""Says which step of a model an exception came from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from model_constructor.errors import add_note
from model_constructor.graph.codegen import ForwardCode

_MAX_ITEMS = 8


def explain(error: BaseException, forward: Callable[..., Any], code: ForwardCode) -> bool:
    """Attach a note with the step that failed inside `forward`: its name, its place, what went in.

    Returns:
        Whether `forward` was reached at all.
    """
    trace = error.__traceback__
    own = getattr(forward, "__code__", None)
    while trace is not None and trace.tb_frame.f_code is not own:
        trace = trace.tb_next
    if trace is None:
        return False
    node = code.steps.get(trace.tb_lineno)
    if node is not None:
        values = trace.tb_frame.f_locals
        names = [code.variables[used] for used in node.all_input_nodes]
        inputs = [f"{name} = {_shown(values.get(name))}" for name in names]
        label = node.meta.get("step", node.name)
        add_note(error, f"in step '{node.name}', {label}; inputs: {', '.join(inputs) or 'none'}")
    return True


def _shown(value: Any) -> str:
    """A value in a few words: type and shape of tensors, at any depth."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)} on {value.device}"
    if isinstance(value, (list, tuple)):
        items = [_shown(item) for item in value[:_MAX_ITEMS]]
        return f"[{', '.join(items)}{', …' if len(value) > _MAX_ITEMS else ''}]"
    if isinstance(value, dict):
        pairs = [f"{key}: {_shown(item)}" for key, item in list(value.items())[:_MAX_ITEMS]]
        return f"{{{', '.join(pairs)}{', …' if len(value) > _MAX_ITEMS else ''}}}"
    text = repr(value)
    return text if len(text) <= 40 else f"{type(value).__name__} {text[:36]}…"
