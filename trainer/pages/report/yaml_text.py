"""Colouring YAML for reading; the text itself stays as it is."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

_LINE = re.compile(
    r"^(?P<indent>\s*(?:- +)*)(?P<key>[^\s#'\"\[\]{}:][^#'\"\[\]{}:]*)(?P<colon>:)(?=\s|$)(?P<rest>.*)$"
)


def coloured_yaml(text: str) -> Markup:
    """Escape YAML and mark its keys and whole-line comments."""
    return Markup("\n").join(_coloured_line(line) for line in text.rstrip().split("\n"))


def _coloured_line(line: str) -> Markup:
    if line.lstrip().startswith("#"):
        return Markup("<i>{}</i>").format(line)
    found = _LINE.match(line)
    if found is None:
        return escape(line)
    return Markup("{}<b>{}</b>{}{}").format(found["indent"], found["key"], found["colon"], found["rest"])
