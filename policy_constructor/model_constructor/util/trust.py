"""Whose code a configuration may run: anybody's, unless whoever builds it says otherwise."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar

_TRUSTED: ContextVar[tuple[str, ...] | None] = ContextVar("trusted", default=None)


@contextlib.contextmanager
def only_trusted(packages: Sequence[str] = ()) -> Iterator[None]:
    """Within the block, configurations run code of these packages and of this one only.

    So a file that came from elsewhere can be built: its own `settings` and `imports` allow it nothing.
    `_target_`, which calls anything in a module, reaches the named packages alone.
    """
    token = _TRUSTED.set(tuple(packages))
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def is_trusted(module: str, *, own: bool = True) -> bool:
    """Whether code of a module may run here; `own`: that of this package may too."""
    trusted = _TRUSTED.get()
    if trusted is None:
        return True
    roots = (*trusted, "model_constructor") if own else trusted
    return any(module == root or module.startswith(f"{root}.") for root in roots if root)
