"""What an actor raises, as whoever called it reads it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from trainer.checkpoint.folder import CheckpointError
from trainer.data.errors import DatasetError
from trainer.online.episode import EpisodeError
from trainer.online.remote import Gone, Remote, result_of
from trainer.online.waiting import answer
from trainer.utils.errors import UsageError

ray = pytest.importorskip("ray")


def called(call: Any) -> Any:
    return Remote(SimpleNamespace(add=SimpleNamespace(remote=lambda: call)), "replay_buffer").add()


WAYS: dict[str, Callable[[Any], Any]] = {
    "result_of": lambda call: result_of(call, "the replay buffer"),
    "answer": lambda call: answer(call, "the replay buffer"),
    "Remote": called,
}


def raised_by(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Let every call raise what Ray raises where an actor has raised this."""

    def get(call: Any, timeout: float | None = None) -> Any:
        raise error

    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "wait", lambda calls, timeout: (calls, []))


def of_ray(cause: Exception) -> Exception:
    wrapped = ray.exceptions.RayTaskError("add", f"Traceback: of another process\n{cause!r}", cause)
    return wrapped.as_instanceof_cause()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "cause",
    [
        UsageError("the episodes in /run were collected for other samples"),
        EpisodeError("the episode lacks 'action'; it was not stored"),
        CheckpointError("/run/weights/latest.pt is damaged"),
        DatasetError("the disk of /run is full"),
    ],
    ids=lambda cause: type(cause).__name__,
)
def test_what_an_actor_refuses_is_one_sentence(
    way: str, cause: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised_by(monkeypatch, of_ray(cause))
    with pytest.raises(type(cause)) as refused:
        WAYS[way](object())
    assert str(refused.value) == str(cause)
    assert not isinstance(refused.value, ray.exceptions.RayError)
    assert refused.value.__suppress_context__, "no traceback of Ray's is shown above it"


@pytest.mark.parametrize("way", WAYS)
def test_a_fault_keeps_its_traceback(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raised_by(monkeypatch, of_ray(ZeroDivisionError("division by zero")))
    with pytest.raises(ZeroDivisionError, match="of another process"):
        WAYS[way](object())


def test_an_actor_that_could_not_begin_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    cause = UsageError("there is no simulator 'drftng'")
    text = "Traceback\n  File x\ntrainer.utils.errors.UsageError: there is no simulator 'drftng'"
    in_creation = ray.exceptions.RayTaskError("__init__", text, cause, actor_id="01")
    raised_by(monkeypatch, ray.exceptions.ActorDiedError(in_creation))
    with pytest.raises(Gone) as refused:
        result_of(object(), "a rollout worker")
    assert str(refused.value) == "a rollout worker could not begin: there is no simulator 'drftng'"


def test_an_actor_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    raised_by(monkeypatch, ray.exceptions.ActorDiedError())
    with pytest.raises(Gone, match=r"^the actor replay_buffer is gone, so nothing can be collected$"):
        called(object())
