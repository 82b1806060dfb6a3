"""Which known name somebody probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def closest(name: str, candidates: Iterable[str], n: int = 1) -> list[str]:
    """The at most `n` candidates most like `name`, best first; case and `-`/`_` do not count."""
    by_folded: dict[str, list[str]] = {}
    for candidate in candidates:
        by_folded.setdefault(_fold(candidate), []).append(candidate)
    matches = difflib.get_close_matches(_fold(name), list(by_folded), n=n, cutoff=0.6)
    return [candidate for match in matches for candidate in by_folded[match]][:n]


def _fold(name: str) -> str:
    return name.lower().replace("-", "_")
