"""What the ranks and the process that started them say to each other."""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
from typing import Any

from trainer.runtime.rank_loss import Loss, Place


class Mailbox:
    """An actor through which the ranks talk with the process that started them."""

    def __init__(self) -> None:
        self._texts: list[tuple[str, str]] = []
        self._news, self._asked_to_stop = asyncio.Event(), asyncio.Event()
        self._closed = False
        self._number = 0
        self._places: dict[int, Place] = {}
        self._loss: Loss | None = None
        self._heard: Loss | None = None

    async def note_place(self, place: Place) -> None:
        """Note where a rank runs."""
        self._places[place.rank] = place
        self._heard = None

    async def note_loss(self, loss: Loss) -> None:
        """Note which rank the others miss."""
        self._heard = self._heard or loss

    async def ask_to_stop(self, number: int) -> None:
        """Ask the ranks to stop, because of a signal."""
        self._number = number
        self._asked_to_stop.set()

    async def stop_signal(self) -> int:
        """Return the number of the signal on which to stop, when it comes."""
        await self._asked_to_stop.wait()
        return self._number

    async def say(self, stream: str, text: str) -> None:
        """Take text that a rank has written to a stream."""
        self._texts.append((stream, text))
        self._news.set()

    async def read(self) -> list[tuple[str, str]] | None:
        """Return the text since the last call, when there is any; None when no more will come."""
        while not self._texts and not self._closed:
            self._news.clear()
            await self._news.wait()
        texts, self._texts = self._texts, []
        return texts or None

    async def close(self) -> None:
        """Tell the reader that no more will come."""
        self._closed = True
        self._news.set()

    async def note_failures(self, reasons: dict[int, Loss | str], then: str, again: bool) -> None:
        """Note which ranks are lost and why; say it, if they are started again."""
        losses = [self._heard] if self._heard else [r for r in reasons.values() if isinstance(r, Loss)]
        if not losses:
            rank, why = next((rank, str(why)) for rank, why in reasons.items())
            losses = [Loss(self._places.get(rank, Place(rank, "unknown", 0)), why)]
        self._loss = losses[0]
        if again:
            await self.say("stderr", f"\n{self._loss}. All ranks are {then}.\n")

    async def last_loss(self) -> Loss | None:
        """Return the last rank that was lost."""
        return self._loss


class Relay(io.TextIOBase):
    """A stream whose text appears where the job was started.

    Args:
        mailbox: takes the text there.
        name: `stdout` or `stderr`.
        live: it appears on a terminal.
    """

    encoding = "utf-8"  # progress bars then draw blocks

    def __init__(self, mailbox: Any, name: str, live: bool) -> None:
        self._mailbox, self._name, self._live = mailbox, name, live
        self._text = ""
        self._lock = threading.Lock()

    def writable(self) -> bool:
        """Return True."""
        return True

    def isatty(self) -> bool:
        """Say whether a terminal shows the text."""
        return self._live

    def write(self, text: str) -> int:
        """Keep text until a line ends or somebody flushes."""
        with self._lock:
            self._text += text
        if "\n" in text:
            self.flush()
        return len(text)

    def flush(self, wait: bool = False) -> None:
        """Send what was kept.

        Args:
            wait: until it has arrived.
        """
        import ray

        with self._lock:
            text, self._text = self._text, ""
        if text or wait:
            sent = self._mailbox.say.remote(self._name, text)
            if wait:
                with contextlib.suppress(ray.exceptions.RayError):
                    ray.get(sent, timeout=5)


def show(ray: Any, mailbox: Any, streams: dict[str, Any]) -> None:
    """Write what the ranks say to the streams of this process, until the mailbox is closed."""
    with contextlib.suppress(ray.exceptions.RayError):
        while (texts := ray.get(mailbox.read.remote())) is not None:
            for name, text in texts:
                streams[name].write(text)
                streams[name].flush()
