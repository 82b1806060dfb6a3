"""Fills in `_template_: name`: the named mapping, with the node's own keys laid over it."""

from __future__ import annotations

from typing import Any

from model_constructor.config.merge import finish_merge, merge_nodes
from model_constructor.config.nodes import UNKNOWN, Node, from_data, to_data
from model_constructor.config.source_map import ConfigPath, SourceMap
from model_constructor.util.problems import Problems
from model_constructor.util.suggest import closest


def expand_templates(data: dict[str, Any], source_map: SourceMap | None = None) -> tuple[Any, SourceMap]:
    """`data` with every `_template_` filled in and the top-level `templates` dropped.

    Raises:
        ConfigError: for unknown and circular templates, all of them at once.
    """
    problems = Problems()
    root = expand_node(from_data(data, source_map), problems)
    problems.raise_all()
    return to_data(root)


def expand_node(root: Node, problems: Problems) -> Node:
    """The tree with its templates filled in, `templates` dropped and leftover merge directives settled."""
    expander = _Expander(root.value.get("templates"), problems)
    expander.check_all()
    rest = {key: child for key, child in root.value.items() if key != "templates"}
    return finish_merge(expander.expand(root.holding(rest), ()), (), problems)


class _Expander:
    def __init__(self, templates: Node | None, problems: Problems) -> None:
        self.problems = problems
        self._templates: dict[str, Node] = {}
        self._expanded: dict[str, Node] = {}
        self._stack: list[str] = []
        self._known = True
        if templates is None or templates.value is None:
            return
        if isinstance(templates.value, dict):
            self._templates = templates.value
        else:
            self._known = False
            if templates.value is not UNKNOWN:
                problems.add("'templates' must be a mapping", ("templates",), templates.loc)

    def check_all(self) -> None:
        """Expand every template, so that mistakes in one that nobody uses are heard of too."""
        for name in self._templates:
            finish_merge(self._template(name), ("templates", name), self.problems)

    def expand(self, node: Node, path: ConfigPath) -> Node:
        """The node with every `_template_` in it filled in."""
        if isinstance(node.value, list):
            items = [self.expand(child, (*path, index)) for index, child in enumerate(node.value)]
            return node.holding(items)
        if not isinstance(node.value, dict):
            return node
        if "_template_" not in node.value:
            return node.holding({key: self.expand(child, (*path, key)) for key, child in node.value.items()})
        own = {key: child for key, child in node.value.items() if key != "_template_"}
        template = self._named(node.value["_template_"], path)
        if template is None:
            return node.holding(UNKNOWN)
        # What the node itself adds may use templates again; the template's own are filled in already.
        return self.expand(merge_nodes(template, node.holding(own), path, self.problems), path)

    def _named(self, name: Node, path: ConfigPath) -> Node | None:
        if not isinstance(name.value, str) or not name.value:
            if name.value is not UNKNOWN:
                self.problems.add("'_template_' must be a template's name", (*path, "_template_"), name.loc)
            return None
        if name.value in self._stack:
            chain = [*self._stack[self._stack.index(name.value) :], name.value]
            self.problems.add(
                f"Template cycle detected: {' -> '.join(chain)}", ("templates", name.value), name.loc
            )
            return None
        if name.value not in self._templates:
            if self._known:
                self.problems.add(
                    f"Unknown template '{name.value}'",
                    ("templates", name.value),
                    name.loc,
                    closest(name.value, self._templates, 5),
                )
            return None
        template = self._template(name.value)
        return template if isinstance(template.value, dict) else None

    def _template(self, name: str) -> Node:
        if name not in self._expanded:
            node = self._templates[name]
            self._stack.append(name)
            expanded = self.expand(node, ("templates", name))
            self._stack.pop()
            if not isinstance(expanded.value, dict) and expanded.value is not UNKNOWN:
                self.problems.add(f"template '{name}' must be a mapping", ("templates", name), node.loc)
            self._expanded[name] = expanded
        return self._expanded[name]
