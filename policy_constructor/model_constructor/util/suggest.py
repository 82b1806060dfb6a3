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


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "there are", none: str = "none") -> str:
    """`did you mean 'x'?` for the known name most like `name`; `otherwise` and all of them where none is."""
    names = list(known)
    near = closest(name, names)
    return f"did you mean '{near[0]}'?" if near else f"{otherwise} {', '.join(names) or none}"


def _fold(name: str) -> str:
    return name.lower().replace("-", "_")
