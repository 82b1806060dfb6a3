"""Reading an experiment YAML: `defaults`, overrides, interpolation, and where every value stands.

Files are read, merged and interpolated by the language of the model YAMLs, `_merge_` included. One thing is
added: `null` takes back what a file builds on, where names are free (`_taken_back`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from model_constructor import ConfigError as YamlError
from model_constructor import (
    ConfigPath,
    Node,
    Problems,
    SourceLocation,
    SourceMap,
    defaults_entries,
    files_like,
    finish_merge,
    interpolate_node,
    load_yaml_node,
    merge_nodes,
    to_data,
    unread_params,
)

from trainer.config.errors import ConfigLoadError, ConfigValidationIssue, yaml_issues
from trainer.config.overrides import overriding
from trainer.config.paths import config_file, search_paths

__all__ = ["ConfigPath", "LocatedConfig", "load_config", "load_located"]

Overrides: TypeAlias = Iterable[str] | Mapping[str, Any]
_FREE_NAMES = ("component_config_paths", "component_build_args", "component_optims")


@dataclass(frozen=True)
class LocatedConfig:
    """A composed configuration and the place of every value in it.

    Attributes:
        data: the merged mapping; `defaults` is gone, `${…}` is filled in.
        source_map: config path → file, line, column.
        chains: file → the files whose `defaults` lead to it, outermost first.
        path: the file that was asked for.
        without: override → what the mapping would be without it.
        unread: the mistakes of `params` that the file sets and nothing reads.
    """

    data: dict[str, Any]
    source_map: SourceMap = field(default_factory=SourceMap)
    chains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    path: Path = Path()
    without: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    unread: Sequence[ConfigValidationIssue] = ()

    def locate(self, path: ConfigPath, of_key: bool = False) -> SourceLocation | None:
        """Return where the value at `path` stands; of a missing one, the key of the section around it.

        Args:
            path: keys and list indices.
            of_key: where its key stands is asked.
        """
        value = None if of_key else self.source_map.get(path)
        return value or self.source_map.key_or_section(path)

    def search_paths(self, path: ConfigPath) -> list[Path]:
        """Return the folders in which the relative file name at `path` is looked up."""
        location = self.locate(path)
        return search_paths(self.path, location.file if location else None)

    def chain(self, location: SourceLocation | None) -> tuple[str, ...]:
        """Return the files that lead to a location, outermost first."""
        return self.chains.get(location.file, ()) if location else ()


def load_config(path: str | Path, overrides: Overrides = ()) -> dict[str, Any]:
    """Load an experiment YAML with its `defaults` merged and its interpolations filled in.

    Args:
        path: the experiment YAML.
        overrides: what wins over the file; see `load_located`.

    Raises:
        ConfigLoadError: a file is missing or is no YAML mapping, or `defaults` is malformed or cyclic.
    """
    return load_located(path, overrides).data


def override_texts(overrides: Overrides) -> list[str]:
    """Return overrides as `dotted.path=value` texts, whichever way they were given."""
    if isinstance(overrides, Mapping):
        return [f"{path}={json.dumps(value, default=_plain)}" for path, value in overrides.items()]
    return [overrides] if isinstance(overrides, str) else list(overrides)


def _plain(value: Any) -> Any:
    """Return what a YAML would hold of a path, or of a number or an array of numpy."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    kind = type(value).__name__
    message = f"an override is a number, a text, a list, a mapping or None, not a {kind}"
    raise ConfigLoadError([ConfigValidationIssue("", message)])


def load_located(path: str | Path, overrides: Overrides = ()) -> LocatedConfig:
    """Load an experiment YAML and keep the position of every value.

    Args:
        path: the experiment YAML.
        overrides: what wins over the file: `dotted.path=value` texts (see `overriding`), or a mapping of
            dotted paths to values.

    Raises:
        ConfigLoadError: see `load_config`; also for an override that cannot be followed. All mistakes.
    """
    path = config_file(path)
    texts = override_texts(overrides)
    problems = Problems()
    files = _Files(problems)
    try:
        root = files.compose(path, (), None)
        problems.raise_all()  # without all the files, what is missing afterwards would only be noise
        below = [root]  # each is laid over all that came before it, once
        for text in texts:
            below.append(_overridden(below[-1], text, problems))
        merged = finish_merge(below.pop(), (), problems)
        unread = [i for e in unread_params(merged, str(path)) for i in yaml_issues(e, files.chains)]
        data, source_map = to_data(interpolate_node(merged, problems))
        problems.raise_all()
        without = {}
        for number, (text, base) in enumerate(zip(texts, below, strict=True)):
            for later in texts[number + 1 :]:
                base = _overridden(base, later, Problems())
            without[text] = to_data(_finished(base, Problems()))[0]
    except YamlError as error:
        raise ConfigLoadError(yaml_issues(error, files.chains)) from None
    except RecursionError:
        message = f"{path}: what it holds refers to itself too deeply"
        raise ConfigLoadError([ConfigValidationIssue("", message)]) from None
    return LocatedConfig(data, source_map, files.chains, path, without, unread)


def _overridden(root: Node, text: str, problems: Problems) -> Node:
    """Return a configuration with an override laid over it."""
    above = overriding(root, text, problems)
    return root if above is None else _lay_over(root, above, problems)


def _finished(root: Node, problems: Problems) -> Node:
    """Return a configuration with its `${…}` filled in."""
    return interpolate_node(finish_merge(root, (), problems), problems)


class _Files:
    """Loads files with everything that their `defaults` name; each is read once.

    Attributes:
        chains: file → the files whose `defaults` lead to it, outermost first.
    """

    def __init__(self, problems: Problems) -> None:
        self.chains: dict[str, tuple[str, ...]] = {}
        self._problems = problems
        self._composed: dict[Path, Node] = {}

    def compose(self, path: Path, stack: tuple[Path, ...], declared: SourceLocation | None) -> Node:
        """Return a file laid over what its `defaults` name, a later entry over the ones before.

        One that cannot be read is noted, and is empty.
        """
        try:
            is_file, resolved = path.is_file(), path.resolve()
        except (OSError, ValueError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or error
            name = _shortened(str(path))
            return self._wrong(f"config file {name!r} cannot be: {reason}", stack, declared)
        if resolved in stack:
            cycle = " -> ".join(p.name for p in (*stack[stack.index(resolved) :], resolved))
            return self._wrong(f"defaults include each other in a cycle: {cycle}", stack, declared)
        if not is_file and path.exists():
            what = "a folder" if path.is_dir() else "a device or the like"
            return self._wrong(f"{path} is {what}, not a config file", stack, declared)
        if not is_file:
            return self._wrong(f"config file not found: {path}", stack, declared, files_like(path))
        if resolved in self._composed:
            return self._composed[resolved]
        chain = (*stack, resolved)
        self.chains[str(path)] = tuple(_shown(str(p)) for p in chain)
        own_problems = Problems()
        with own_problems.collect():
            root = load_yaml_node(path)
        entries = [] if len(own_problems) else defaults_entries(root, own_problems)
        for one in own_problems.all():
            self._take(one, self.chains[str(path)])
        if len(own_problems):
            return Node({}, declared)
        below = root.holding({})
        for entry in entries:
            included = self.compose(config_file(entry.value, path.parent), chain, entry.loc)
            below = _lay_over(below, included, self._problems)
        own = root.holding({key: child for key, child in root.value.items() if key != "defaults"})
        self._composed[resolved] = _lay_over(below, own, self._problems)
        return self._composed[resolved]

    def _wrong(
        self,
        message: str,
        stack: tuple[Path, ...],
        declared: SourceLocation | None,
        near: Sequence[str] = (),
    ) -> Node:
        """Note what is wrong with an entry of `defaults`, or with the file that was asked for."""
        error = YamlError(message, location=declared, suggestions=near)
        self._take(error, tuple(_shown(str(p)) for p in stack))
        return Node({}, declared)

    def _take(self, error: YamlError, chain: tuple[str, ...]) -> None:
        self._problems.take(
            YamlError(
                error.message,
                config_path=error.config_path,
                location=error.location,
                include_stack=chain,
                suggestions=error.suggestions,
            )
        )


def _lay_over(below: Node, above: Node, problems: Problems) -> Node:
    """Merge two files; mappings key by key, everything else is replaced, `_merge_` says otherwise."""
    return _taken_back(merge_nodes(below, above, (), problems), below, above, ())


def _taken_back(merged: Node, below: Node, above: Node, path: ConfigPath) -> Node:
    """Leave out what `above` sets to null of what `below` gives, where names are free.

    So a file that chooses another optimizer than the one it builds on can drop its parameters. Elsewhere null
    is a value like others: the schema says what it means.
    """
    if not all(isinstance(node.value, dict) for node in (merged, below, above)):
        return merged
    names_are_free = "params" in path[1:] or (path and path[-1] in _FREE_NAMES)
    kept = dict(merged.value)
    for key, child in above.value.items():
        beneath = below.value.get(key)
        if beneath is None or beneath.value is None or key not in kept:
            continue
        if child.value is None:
            if names_are_free or (path and key == "params"):
                del kept[key]
        else:
            kept[key] = _taken_back(kept[key], beneath, child, (*path, key))
    return merged.holding(kept)


def _shown(path: str) -> str:
    """Return a path relative to the current folder where that is shorter."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}…"
