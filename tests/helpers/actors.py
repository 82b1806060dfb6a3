"""Actors of this process: what they are called with happens at once, without Ray."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from trainer.online import learner


class LocalActor:
    """Gives the methods of an object as those of an actor handle; a call returns its result."""

    def __init__(self, plain: Any) -> None:
        self.plain = plain

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self.plain, name))


def use_local_actors(monkeypatch: pytest.MonkeyPatch, **actors: Any) -> None:
    """Let a learner of this process find these objects as its actors, by name."""
    monkeypatch.setattr(learner, "find_actor", lambda name: LocalActor(actors[name]))
    monkeypatch.setattr(learner, "answer", lambda result, whose: result)
    monkeypatch.setattr(learner, "by_reference", lambda weights: weights)
