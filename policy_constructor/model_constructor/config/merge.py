"""Lays one configuration over another: mappings merge, anything else replaces, `_merge_` says otherwise.

A directive is a mapping `{_merge_: replace|append|prepend|keyed, _value_: …}` (and `key: …` for `keyed`).
It acts on what lies at the same place beneath it. A directive with nothing beneath (yet) is kept, for a later
layer may slide under it; `finish_merge` settles the ones that are left, against an empty list.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from model_constructor.config.nodes import UNKNOWN, Node, from_data, to_data
from model_constructor.config.source_map import ConfigPath, SourceMap
from model_constructor.util.problems import Problems
from model_constructor.util.suggest import closest

MODES = ("replace", "append", "prepend", "keyed")
_DIRECTIVE_KEYS = ("_merge_", "_value_", "key")


def merge_values(
    base: Any,
    override: Any,
    *,
    base_map: SourceMap | None = None,
    override_map: SourceMap | None = None,
    path: ConfigPath = (),
) -> tuple[Any, SourceMap]:
    """`override` laid over `base`, and where each value of the result was written.

    Keys keep the order of `base`; those that only `override` has follow in its order.

    Raises:
        ConfigError: for wrong directives, all of them at once.
    """
    problems = Problems()
    below, above = from_data(base, base_map, path), from_data(override, override_map, path)
    merged = finish_merge(merge_nodes(below, above, path, problems), path, problems)
    problems.raise_all()
    return to_data(merged)


@dataclasses.dataclass(frozen=True)
class MergeDirective:
    """A `_merge_` mapping, taken apart.

    Attributes:
        mode: one of `MODES`.
        value: what stands under `_value_`.
        key: the field that tells the items of a `keyed` list apart.
    """

    mode: str
    value: Node
    key: str | None = None


def read_directive(node: Node, path: ConfigPath, problems: Problems) -> MergeDirective | None:
    """The directive that `node` is; `None`, with the mistakes noted, for a wrong one."""
    fields: dict[str, Node] = node.value
    mode = fields["_merge_"].value
    before = len(problems)
    for name, field in fields.items():
        if name not in _DIRECTIVE_KEYS:
            problems.add(
                f"Unknown key '{name}' beside '_merge_'",
                (*path, name),
                field.key_loc or node.loc,
                closest(name, _DIRECTIVE_KEYS),
            )
    if not isinstance(mode, str) or mode not in MODES:
        if mode is not UNKNOWN:
            near = [*closest(str(mode), MODES, len(MODES)), *MODES]
            known = list(dict.fromkeys(near))
            problems.add(f"Invalid merge mode {mode!r}", (*path, "_merge_"), fields["_merge_"].loc, known)
        return None
    if "_value_" not in fields:
        problems.add(f"'_merge_: {mode}' needs '_value_'", path, node.loc, ["_value_"])
        return None
    key_node = fields.get("key")
    key = key_node.value if key_node is not None else None
    if mode == "keyed" and not (isinstance(key, str) and key):
        problems.add(
            "'_merge_: keyed' needs 'key', the name of the field that tells the items apart",
            (*path, "key"),
            (key_node or node).loc,
        )
    if mode != "keyed" and key_node is not None:
        problems.add(f"'key' means nothing to '_merge_: {mode}'", (*path, "key"), key_node.key_loc, ["keyed"])
    value = fields["_value_"]
    if mode != "replace" and not isinstance(value.value, list) and value.value is not UNKNOWN:
        problems.add(f"'_merge_: {mode}' needs a list under '_value_'", (*path, "_value_"), value.loc)
    return MergeDirective(mode, value, key) if len(problems) == before else None


def is_directive(node: Node) -> bool:
    """Whether the node is a mapping with `_merge_`."""
    return isinstance(node.value, dict) and "_merge_" in node.value


def merge_nodes(base: Node, override: Node, path: ConfigPath, problems: Problems) -> Node:
    """`override` laid over `base`; directives without anything beneath stay in the result."""
    if is_directive(base):
        return _over_directive(base, override, path, problems)
    if is_directive(override):
        directive = read_directive(override, path, problems)
        if directive is None:
            return override.holding(UNKNOWN)
        return _apply(base, directive, override, path, problems)
    if isinstance(base.value, dict) and isinstance(override.value, dict):
        merged = dict(base.value)
        for key, child in override.value.items():
            merged[key] = (
                merge_nodes(base.value[key], child, (*path, key), problems) if key in merged else child
            )
        return override.holding(merged)
    return override


def finish_merge(node: Node, path: ConfigPath, problems: Problems) -> Node:
    """Settle the directives that never met anything beneath: they act on an empty list."""
    if is_directive(node):
        directive = read_directive(node, path, problems)
        if directive is None:
            return node.holding(UNKNOWN)
        node = _apply(Node(None), directive, node, path, problems)
        return finish_merge(node, path, problems) if not is_directive(node) else node
    if isinstance(node.value, dict):
        done = {key: finish_merge(child, (*path, key), problems) for key, child in node.value.items()}
        return node if all(done[key] is node.value[key] for key in done) else node.holding(done)
    if isinstance(node.value, list):
        items = [finish_merge(child, (*path, index), problems) for index, child in enumerate(node.value)]
        return (
            node
            if all(new is old for new, old in zip(items, node.value, strict=True))
            else node.holding(items)
        )
    return node


def _over_directive(base: Node, override: Node, path: ConfigPath, problems: Problems) -> Node:
    """Something laid over a directive that still waits for its base."""
    lower = read_directive(base, path, problems)
    if lower is None:
        return override.holding(UNKNOWN)
    if is_directive(override):
        upper = read_directive(override, path, problems)
        if upper is None:
            return override.holding(UNKNOWN)
        if upper.mode == "replace":
            return override
        if lower.mode not in ("replace", upper.mode) or (lower.mode == "keyed" and lower.key != upper.key):
            problems.add(
                f"'_merge_: {upper.mode}' over '_merge_: {lower.mode}' with no list beneath",
                path,
                override.loc,
            )
            return override.holding(UNKNOWN)
        value = _apply(lower.value, upper, override, path, problems)
    elif lower.mode == "replace" and isinstance(override.value, dict):
        value = merge_nodes(lower.value, override, path, problems)
    else:
        return override
    return override.holding({**base.value, "_value_": value})


def _apply(base: Node, directive: MergeDirective, site: Node, path: ConfigPath, problems: Problems) -> Node:
    if directive.mode == "replace":
        return directive.value.at(directive.value.loc, site.key_loc)
    if UNKNOWN in (base.value, directive.value.value):
        return site.holding(UNKNOWN)
    if base.value is not None and not isinstance(base.value, list):
        problems.add(f"'_merge_: {directive.mode}' over something that is no list", path, site.loc)
        return site.holding(UNKNOWN)
    below: list[Node] = base.value or []
    above: list[Node] = directive.value.value
    if directive.mode == "append":
        items = below + above
    elif directive.mode == "prepend":
        items = above + below
    else:
        assert directive.key is not None
        items = _keyed(below, above, directive.key, path, problems)
    return Node(items, directive.value.loc, site.key_loc)


def _keyed(
    below: list[Node], above: list[Node], key: str, path: ConfigPath, problems: Problems
) -> list[Node]:
    base = _by_key(below, key, "the list beneath", path, problems)
    override = _by_key(above, key, "'_value_'", path, problems)
    merged = dict(base)
    for name, item in override.items():
        merged[name] = merge_nodes(base[name], item, (*path, name), problems) if name in base else item
    return list(merged.values())


def _by_key(items: list[Node], key: str, where: str, path: ConfigPath, problems: Problems) -> dict[str, Node]:
    found: dict[str, Node] = {}
    for index, item in enumerate(items):
        if item.value is UNKNOWN:
            continue
        if not isinstance(item.value, dict):
            problems.add(f"item {index} of {where} is no mapping, so it has no '{key}'", path, item.loc)
            continue
        field = item.value.get(key)
        name = field.value if field is not None else None
        if not isinstance(name, str) or not name:
            location = item.loc if field is None else field.loc
            problems.add(f"item {index} of {where} needs a name under '{key}'", path, location)
        elif name in found:
            problems.add(f"{where} holds two items with {key} '{name}'", path, item.loc)
        else:
            found[name] = item
    return found
