"""Writes the page of components: `python -m trainer.engine.component_reference > docs/components.md`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trainer.engine.registered import REQUIRED, Registered, load_plugins_of, registered
from trainer.registry.plugins import SHIPPED

HEAD = """# Every component

Made by `python -m trainer.engine.component_reference > docs/components.md` from the registries, the
constructors and their docstrings; do not edit it. `trainer list` prints the same, your own plugins included.

`type` is the word in the YAML, and its parameters stand under `params`. A component whose *plugin* is named
needs that line under `plugins`; the others are always there. Parameters without a default are required.
What a component of your own must offer stands in [parts of your own](extending.md). Networks are
[blocks](blocks.md), simulators are chosen by `train.evaluation.env`.
Which components a policy asks for, and what each is given and returns, says
`trainer list trainer act_trainer`.
"""
_SECTIONS = (
    ("Datasets", "data.datamodule", "dataset_builder"),
    ("Trainers and policies", "train.trainer", "trainer"),
    ("Losses", "train.loss", "loss_builder"),
    ("Optimizers", "train.optimizer or model.component_optims.<component>", "optimizer_builder"),
    ("Callbacks", "an entry of train.callbacks", "callback"),
    ("Metrics", "an entry of train.metrics", "metric"),
    ("Loggers", "an entry of train.loggers", "logger"),
    ("Experts", "online.expert", "expert"),
)


def page() -> Iterator[str]:
    """Yield the lines of the page."""
    load_plugins_of([kind for _, _, kind in _SECTIONS])
    yield HEAD
    for title, where, kind in _SECTIONS:
        yield f"## {title}\n\n`{where}`\n"
        for one in registered(kind):
            if one.module.split(".")[0] in SHIPPED:  # not an example, nor of somebody else's plugin
                yield from _component(one)


def _component(one: Registered) -> Iterator[str]:
    yield f"### `{one.key}`\n"
    yield " ".join(one.doc.split("\n\n")[0].split()) + "\n"
    if one.plugin is not None:
        yield f"Plugin: `{one.plugin}`\n"
    if not one.parameters:
        yield "No parameters.\n"
        return
    yield "| parameter | type | default | meaning |\n|---|---|---|---|"
    for given in one.parameters:
        default = "required" if given.default is REQUIRED else f"`{_yaml(given.default)}`"
        yield f"| `{given.name}` | {given.type} | {default} | {given.meaning} |"
    yield ""


def _yaml(value: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_yaml, value))}]"
    return str(value)


if __name__ == "__main__":
    print("\n".join(page()).rstrip())
