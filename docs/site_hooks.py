"""What the site adds to docs/: pages of those files of the repository that its pages link to.

In the repository a page links to `../examples/configs/minimal.yaml`, which a reader there can open. The site
has nothing outside of docs/, so such a file becomes a page of it, and a link to nothing breaks the build.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<!\!)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".sh": "bash", ".toml": "toml"}


def on_files(files: Files, config: Any) -> Files:
    """Add a page for every file of the repository to which a page leads."""
    waiting = [Path(file.abs_src_path) for file in files.documentation_pages()]
    while waiting:
        path = waiting.pop()
        for match in LINK.finditer(path.read_text(encoding="utf-8")):
            target = _outside(match[2], path.parent)
            made = target and _page_of(target)
            if target is None or made is None or files.get_file_from_path(made) is not None:
                continue
            page = File.generated(config, made, content=_content(target), inclusion=InclusionLevel.NOT_IN_NAV)
            files.append(page)
            if target.suffix == ".md":
                waiting.append(target)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links that lead out of docs/ lead to the pages of those files."""
    source = _source_of(page.file.src_uri)

    def there(match: re.Match[str]) -> str:
        target = _outside(match[2], source.parent)
        if target is not None:
            to = _page_of(target)
        elif source.is_relative_to(ROOT / "docs") or not (source.parent / match[2]).exists():
            return match[0]
        else:  # from a page of the repository back into docs/
            to = os.path.relpath((source.parent / match[2]).resolve(), ROOT / "docs")
        relative = posixpath.relpath(to, posixpath.dirname(page.file.src_uri) or ".")
        return f"[{match[1]}]({relative}{match[3] or ''})"

    return LINK.sub(there, markdown)


def _outside(link: str, folder: Path) -> Path | None:
    """Return the file of the repository outside of docs/ that a link means, or None."""
    if "://" in link or link.startswith("mailto:"):
        return None
    target = (folder / link).resolve()
    inside = not target.is_relative_to(ROOT) or target.is_relative_to(ROOT / "docs")
    return None if inside or not target.exists() else target


def _page_of(target: Path) -> str:
    """Return the page of a file; that of Markdown keeps its name, so that links between such files hold."""
    name = target.relative_to(ROOT).as_posix()
    return f"repository/{name}" if target.suffix == ".md" else f"repository/{name}.md"


def _source_of(uri: str) -> Path:
    """Return the file of the repository from which a page is made."""
    if not uri.startswith("repository/"):
        return ROOT / "docs" / uri
    path = ROOT / uri.removeprefix("repository/")
    return path if path.is_file() else path.with_suffix("")


def _content(target: Path) -> str:
    name = target.relative_to(ROOT).as_posix()
    if target.is_dir():
        lines = [f"# `{name}/`", ""]
        lines += [
            f"* `{path.name}`" for path in sorted(target.iterdir()) if not path.name.startswith(("_", "."))
        ]
        return "\n".join(lines)
    text = target.read_text(encoding="utf-8")
    if target.suffix == ".md":
        return text
    return f"# `{name}`\n\n```{_LANGUAGES.get(target.suffix, 'text')}\n{text}\n```\n"
