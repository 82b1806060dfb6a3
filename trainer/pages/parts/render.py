"""One self-contained HTML page from templates: style, script and pictures are all in it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from trainer.utils import text

_ASSETS = Path(__file__).parent / "assets"


def render_page(
    templates: Path,
    name: str,
    content: Mapping[str, Any],
    filters: Mapping[str, Callable[..., Any]] | None = None,
) -> str:
    """Return the HTML of a page.

    Args:
        templates: folder of the page's own templates; those of every page (`base.html`, `macros.html`) are
            found beside them.
        name: the template, which extends `base.html`.
        content: what the templates name.
        filters: filters beyond those for numbers, times and sizes.
    """
    environment = Environment(
        loader=FileSystemLoader([templates, _ASSETS]),
        autoescape=True,  # every value on the page comes from a file
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=text.number,
        percent=text.percent,
        percent_interval=text.percent_interval,
        number_interval=text.number_interval,
        duration=text.duration,
        count_short=text.count_short,
        megabytes=text.megabytes,
        shape=text.shape,
        offsets=text.offsets,
        listed=text.listed,
        **(filters or {}),
    )
    script = (_ASSETS / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return environment.get_template(name).render(
        style=Markup((_ASSETS / "style.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=digest,
        built=datetime.now(timezone.utc),
        **content,
    )
