"""What the fuzzers of model and of experiment YAMLs share: mutations of texts and of data."""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
# Things that often go wrong in YAML, to be put anywhere.
_YAML = r"""
null true ~ 1 0 -1 1e9 .inf .nan 0x_ 0b 2001-99-99 1:60 <<: << &a *a & * ! !!set !!python/object:x !!int
[] {} [ ] { } : - ? , # | > ' " % @ ` \ --- ...
"""
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
WORDS: list[str] = [*_YAML.split(), "", "\t", "é", "\u2028", "\x00", "\ufeff"]
"""A fuzzer adds the words of its language."""

Mutation = Callable[[random.Random, str, list[str]], str]


def replace_word(rng: random.Random, text: str, texts: list[str]) -> str:
    """Another word in place of one."""
    words = text.split(" ")
    words[rng.randrange(len(words))] = rng.choice(WORDS)
    return " ".join(words)


def insert_word(rng: random.Random, text: str, texts: list[str]) -> str:
    """A word somewhere."""
    at = rng.randrange(len(text) + 1)
    return text[:at] + rng.choice(WORDS) + rng.choice(["", " ", ": ", "\n"]) + text[at:]


def delete_piece(rng: random.Random, text: str, texts: list[str]) -> str:
    """A few letters less."""
    at = rng.randrange(len(text) + 1)
    return text[:at] + text[at + rng.randrange(1, 12) :]


def delete_line(rng: random.Random, text: str, texts: list[str]) -> str:
    """A line less."""
    lines = text.split("\n")
    del lines[rng.randrange(len(lines))]
    return "\n".join(lines)


def repeat_line(rng: random.Random, text: str, texts: list[str]) -> str:
    """A line once more, somewhere."""
    lines = text.split("\n")
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
    return "\n".join(lines)


def shift_line(rng: random.Random, text: str, texts: list[str]) -> str:
    """A line further in or out."""
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    lines[at] = " " * rng.randrange(9) + lines[at].lstrip()
    return "\n".join(lines)


def swap_names(rng: random.Random, text: str, texts: list[str]) -> str:
    """One of the text's own words in place of another."""
    words = text.split(" ")
    words[rng.randrange(len(words))] = rng.choice(words)
    return " ".join(words)


def foreign_lines(rng: random.Random, text: str, texts: list[str]) -> str:
    """A few lines of another file."""
    lines, others = text.split("\n"), rng.choice(texts).split("\n")
    at, start = rng.randrange(len(lines) + 1), rng.randrange(len(others))
    lines[at:at] = others[start : start + rng.randrange(1, 8)]
    return "\n".join(lines)


def any_letter(rng: random.Random, text: str, texts: list[str]) -> str:
    """One letter replaced by any character."""
    at = rng.randrange(len(text) + 1)
    letter = chr(rng.choice([rng.randrange(128), rng.randrange(0xD7FF)]))
    return text[:at] + letter + text[at + 1 :]


def include(rng: random.Random, text: str, texts: list[str]) -> str:
    """An include of a shipped file, of itself, or of nothing."""
    name = rng.choice(["base.yaml", "case.yaml", "gone.yaml", "."])
    return f"defaults: [{name}]\n{text}"


MUTATIONS: tuple[Mutation, ...] = (
    replace_word,
    insert_word,
    delete_piece,
    delete_line,
    repeat_line,
    shift_line,
    swap_names,
    foreign_lines,
    any_letter,
    include,
)


def shipped(*folders: str) -> list[str]:
    """The texts of all YAMLs in folders of the repository."""
    files = sorted(file for folder in folders for file in (REPOSITORY / folder).rglob("*.yaml"))
    return [file.read_text(encoding="utf-8") for file in files]


def places(data: Any) -> list[tuple[Any, Any]]:
    """Every container in `data` with each of its keys or indices."""
    keys = list(data) if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
    return [place for key in keys for place in [(data, key), *places(data[key])]]


@functools.cache
def parsed(text: str) -> Any:
    """A shipped text as data."""
    return yaml.load(text, Loader=_LOADER)


def mutate_data(rng: random.Random, text: str, texts: list[str]) -> str:
    """The same document with some of its values, keys and items changed."""
    data = copy.deepcopy(parsed(text))
    for _ in range(rng.randrange(1, 4)):
        container, key = rng.choice(places(data))
        other = copy.deepcopy(rng.choice([place[key_] for place, key_ in places(data)]))
        action = rng.randrange(6)
        if action == 0:
            container[key] = rng.choice(WORDS)
        elif action == 1:
            container[key] = other
        elif action == 2:
            del container[key]
        elif action == 3:
            container[key] = rng.choice(
                [[container[key]], {rng.choice(WORDS): container[key]}, None, 3, 0.5, [], {}]
            )
        elif isinstance(container, dict):
            container[rng.choice([*WORDS, *container])] = other if action == 4 else container.pop(key)
        else:
            container.insert(key, other)
        if not places(data):
            break
    return yaml.dump(data, Dumper=_DUMPER, sort_keys=False, allow_unicode=True)


def mutate(rng: random.Random, texts: list[str]) -> str:
    """One case: a shipped text, changed one to six times as text or one to three times as data."""
    text = rng.choice(texts)
    if rng.random() < 0.5:
        return mutate_data(rng, text, texts)
    for _ in range(rng.randrange(1, 7)):
        text = rng.choice(MUTATIONS)(rng, text, texts)
    return text
