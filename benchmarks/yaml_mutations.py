"""What the fuzzers of model and of experiment YAMLs share: mutations of texts and data, and their loop."""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import functools
import json
import platform
import random
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
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


LIMIT_SECONDS = 10


class TooSlow(BaseException):
    """A case has taken longer than it may; nothing that is tried may take it for an error of its own."""


@contextlib.contextmanager
def time_limit(seconds: int = LIMIT_SECONDS) -> Iterator[None]:
    """Raise `TooSlow` in a block that takes longer."""

    def ring(*_: object) -> None:
        raise TooSlow(f"more than {seconds} s")

    signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def parser_of(description: str | None, cases: int) -> argparse.ArgumentParser:
    """The arguments that both fuzzers take."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=cases)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--findings", type=Path, default=Path("fuzz_findings"), help="folder for texts that fail"
    )
    return parser


class Trial:
    """Tries texts and counts what comes of them: an acceptance, a refusal, or a finding.

    Args:
        attempt: takes the file that holds a text.
        refusals: the exceptions by which it may refuse one; their `issues` or `errors` have a `location`.
        case: the file.
        findings: folder for the texts with which something else was raised or that took too long.

    Attributes:
        tried: number of texts so far.
        accepted: the texts that were accepted.
        counts: `accepted`, `config_errors`, `mistakes`, `mistakes_without_a_place`, `findings`.
        slowest: seconds that the slowest case took.
    """

    def __init__(
        self,
        attempt: Callable[[Path], Any],
        refusals: tuple[type[Exception], ...],
        case: Path,
        findings: Path,
    ) -> None:
        self.attempt = attempt
        self.refusals = refusals
        self.case = case
        self.findings = findings
        self.tried = 0
        self.accepted: list[str] = []
        self.counts: collections.Counter[str] = collections.Counter()
        self.slowest = 0.0

    def over(self, texts: Iterable[tuple[str, str]]) -> None:
        """Try texts, each under a name for its findings."""
        for name, text in texts:
            self.tried += 1
            self.case.write_text(text, encoding="utf-8", newline="")
            begun = time.perf_counter()
            try:
                with time_limit():
                    self.attempt(self.case)
                self.accepted.append(text)
                self.counts["accepted"] += 1
            except self.refusals as error:
                found = getattr(error, "issues", None) or getattr(error, "errors", ())
                self.counts["config_errors"] += 1
                self.counts["mistakes"] += len(found) or 1
                self.counts["mistakes_without_a_place"] += sum(one.location is None for one in found)
            except (Exception, TooSlow):
                self.note(name, text, traceback.format_exc())
            self.slowest = max(self.slowest, time.perf_counter() - begun)

    def note(self, name: str, text: str, what: str) -> None:
        """Keep a text that fails, and how."""
        self.counts["findings"] += 1
        self.findings.mkdir(exist_ok=True)
        (self.findings / f"{name}.yaml").write_text(text, encoding="utf-8", newline="")
        (self.findings / f"{name}.txt").write_text(what, encoding="utf-8")


def tell(trial: Trial, started: float, **facts: Any) -> int:
    """Print one JSON line about all cases, and return the exit code."""
    names = ("accepted", "config_errors", "mistakes", "mistakes_without_a_place", "findings")
    result = {
        **facts,
        **{name: trial.counts[name] for name in names},
        "seconds": round(time.perf_counter() - started, 1),
        "slowest_case_s": round(trial.slowest, 3),
        "python": platform.python_version(),
        "pyyaml": yaml.__version__,
    }
    print(json.dumps(result))
    return 1 if trial.counts["findings"] else 0
