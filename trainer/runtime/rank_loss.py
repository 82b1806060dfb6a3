"""A rank that is gone: which one, and why."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass
from typing import Any

_LONGEST_REASON = 4000


@dataclass(frozen=True)
class Place:
    """Where a rank runs.

    Attributes:
        machine: what ranks have in common that see each other's processes; empty where they do not.
    """

    rank: int
    host: str
    pid: int
    machine: str = ""

    @classmethod
    def here(cls, rank: int) -> Place:
        """Return the place of this process."""
        host = socket.gethostname()
        try:
            machine = f"{host} {os.readlink('/proc/self/ns/pid')}"
        except OSError:
            machine = ""
        return cls(rank, host, os.getpid(), machine)

    def __str__(self) -> str:
        return f"rank {self.rank} (host {self.host}, process {self.pid})"


@dataclass(frozen=True)
class Loss:
    """A rank that is gone.

    Attributes:
        place: which one.
        why: its last error, or how it was missed.
        worded: it said itself why.
        final: the same error comes again when the run is started again.
    """

    place: Place
    why: str
    worded: bool = False
    final: bool = False

    def __str__(self) -> str:
        verb = "failed" if self.worded else "is lost"
        text = f"{self.place} {verb}: {self.why}"
        return text[0].upper() + text[1:]

    @classmethod
    def of(cls, place: Place, error: BaseException, final: bool = False) -> Loss:
        """Return the loss of a rank by an error of its own."""
        why = " ".join(str(error).split()) if final else f"{type(error).__name__}: {error}"
        return cls(place, why.strip()[:_LONGEST_REASON], worded=True, final=final)

    @classmethod
    def from_json(cls, text: bytes) -> Loss:
        """Return what `to_json` wrote."""
        facts = json.loads(text)
        return cls(**{**facts, "place": Place(**facts["place"])})

    def to_json(self) -> str:
        """Return it as text."""
        return json.dumps(asdict(self))


class RankLost(RuntimeError):
    """A rank is gone, so the run cannot go on.

    Attributes:
        loss: which one, and why.
        say: this process is the one that tells the user.
    """

    def __init__(self, loss: Loss, say: bool = True) -> None:
        super().__init__(str(loss))
        self.loss = loss
        self.say = say

    def __reduce__(self) -> tuple[Any, ...]:
        return RankLost, (self.loss, self.say)


class AgreedEnd(Exception):
    """An early end of the run on which all ranks agreed; nobody misses who leaves by it."""
