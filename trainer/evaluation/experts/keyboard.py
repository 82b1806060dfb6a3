"""A person at a terminal, who takes over with the space bar and moves the robot with keys."""

from __future__ import annotations

import contextlib
import os
import select
import termios
import time
import tty
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from trainer.config.parameters import PathText, Positive, PositiveNumber
from trainer.registry import EXPERT_REGISTRY
from trainer.utils.errors import UsageError

TOGGLE = " "
"""The key that takes over, and hands back."""

MOVES = {
    "a": [1.0, 0.0, 0.0, 0.0],
    "d": [-1.0, 0.0, 0.0, 0.0],
    "w": [0.0, -1.0, 0.0, 0.0],
    "s": [0.0, 1.0, 0.0, 0.0],
    "r": [0.0, 0.0, 1.0, 0.0],
    "f": [0.0, 0.0, -1.0, 0.0],
}
STAYS = {"o": [0.0, 0.0, 0.0, -1.0], "c": [0.0, 0.0, 0.0, 1.0]}
"""The keys for Meta-World's hand, as its films show it: left and right, away and near, up and down; the
gripper opens and closes."""

_WIDTH = 64  # of the picture in the terminal, in characters; each shows two pixels, one above the other
_PICTURES_PER_S = 10.0


@EXPERT_REGISTRY.register("keyboard")
class KeyboardExpert:
    """Lets a person take over: the space bar takes over and hands back, keys move the robot.

    The robot is slowed down to its own rate, so that a person can follow, and where it is a simulator that
    can draw, the terminal shows it.

    Args:
        keys: key → what it adds to the action while it is held down.
        stays: key → what it adds until another of these is pressed, such as a closed gripper.
        linger: control steps for which a key counts after the terminal has told of it.
        rate: control steps per second; that of the simulator if not given.
        terminal: device of the terminal; in another process than the one that was started there, its name is
            what the command `tty` says.
        show: draw the robot.
    """

    human = True

    def __init__(
        self,
        keys: dict[str, list[float]] | None = None,
        stays: dict[str, list[float]] | None = None,
        linger: Positive = 6,
        rate: PositiveNumber | None = None,
        terminal: PathText = "/dev/tty",
        show: bool = True,
    ) -> None:
        self._keys = {key: np.asarray(v, np.float32) for key, v in (MOVES if keys is None else keys).items()}
        self._stays = {
            key: np.asarray(v, np.float32) for key, v in (STAYS if stays is None else stays).items()
        }
        shapes = {v.shape for v in (*self._keys.values(), *self._stays.values())}
        if len(shapes) != 1:
            raise UsageError(
                "keys and stays of the keyboard expert give actions of different lengths, or none"
            )
        (self._shape,) = shapes
        self._linger, self._rate, self._terminal, self._show = linger, rate, terminal, show
        self._robot: Any = None
        self._begin()

    def reset(self, robot: Any) -> None:
        """Begin an episode.

        Raises:
            UsageError: the keys are for another robot.
        """
        feature = getattr(robot, "features", {}).get("action")
        if feature is not None and tuple(feature["shape"]) != self._shape:
            raise UsageError(
                f"the keys of the keyboard expert give actions of shape {self._shape}, and the robot takes "
                f"{tuple(feature['shape'])}; set params.keys and params.stays of online.expert"
            )
        self._robot = robot
        self._begin()

    def act(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return what the keys say, within [-1, 1] for the usual ones."""
        self._look(observation)
        action = np.zeros(self._shape, np.float32)
        if self._staying is not None:
            action += self._stays[self._staying]
        for key, step in self._pressed.items():
            if self._step - step < self._linger:
                action += self._keys[key]
        return action

    def takes_over(self, observation: Mapping[str, np.ndarray], action: np.ndarray) -> bool:
        """Return whether the person moves the robot now."""
        self._look(observation)
        return self._moves

    def _begin(self) -> None:
        self._moves = False
        self._step = 0
        self._pressed: dict[str, int] = {}
        self._staying: str | None = None
        self._seen: Mapping[str, np.ndarray] | None = None
        self._next = self._next_picture = time.monotonic()

    def _look(self, observation: Mapping[str, np.ndarray]) -> None:
        """Show the robot and take the keys, once for every control step."""
        if self._seen is observation:
            return
        self._seen = observation
        self._step += 1
        with self._opened() as terminal:
            self._draw(terminal)
            for key in _read(terminal, self._time_left()):
                if key == TOGGLE:
                    self._moves = not self._moves
                elif key in self._stays:
                    self._staying = key
                elif key in self._keys:
                    self._pressed[key] = self._step

    def _time_left(self) -> float:
        """Return the seconds until the robot has to move on."""
        rate = self._rate or getattr(self._robot, "fps", None) or 20.0
        now = time.monotonic()
        self._next = max(self._next + 1 / rate, now)
        return self._next - now

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """Yield the terminal, which hands over each key at once."""
        with contextlib.ExitStack() as stack:
            try:
                terminal = os.open(self._terminal, os.O_RDWR | os.O_NOCTTY)
                stack.callback(os.close, terminal)
                before = termios.tcgetattr(terminal)
            except (OSError, termios.error) as error:
                raise UsageError(
                    f"the keyboard expert needs a terminal, and {self._terminal} is none here; set "
                    "params.terminal of online.expert to what the command tty says, where the worker runs"
                ) from error
            stack.callback(termios.tcsetattr, terminal, termios.TCSANOW, before)
            tty.setcbreak(terminal, termios.TCSANOW)
            yield terminal

    def _draw(self, terminal: int) -> None:
        if not self._show or not hasattr(self._robot, "render") or time.monotonic() < self._next_picture:
            return
        self._next_picture = time.monotonic() + 1 / _PICTURES_PER_S
        try:
            picture = self._robot.render()
        except RuntimeError as error:
            self._show = False
            os.write(terminal, f"no picture: {error}\r\n".encode())
            return
        who = "you move the robot" if self._moves else "the policy moves the robot"
        text = f"\x1b[H{as_text(picture)}\x1b[0m step {self._step}: {who}; space bar changes that\x1b[K\r\n"
        os.write(terminal, text.encode())


def as_text(picture: np.ndarray, width: int = _WIDTH) -> str:
    """Return a picture `(H, W, 3)` as coloured half blocks, two rows of pixels to a line of text."""
    height = max(2, 2 * round(width * picture.shape[0] / picture.shape[1] / 2))
    rows = np.arange(height) * picture.shape[0] // height
    columns = np.arange(width) * picture.shape[1] // width
    small = picture[rows][:, columns]
    lines = []
    for upper, lower in zip(small[::2].tolist(), small[1::2].tolist(), strict=True):
        cells = (
            f"\x1b[38;2;{a[0]};{a[1]};{a[2]}m\x1b[48;2;{b[0]};{b[1]};{b[2]}m▀"
            for a, b in zip(upper, lower, strict=True)
        )
        lines.append("".join(cells) + "\x1b[0m\r\n")
    return "".join(lines)


def _read(terminal: int, seconds: float) -> str:
    """Return the keys that come within so many seconds."""
    until, keys = time.monotonic() + seconds, b""
    while True:
        ready, _, _ = select.select([terminal], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            return keys.decode(errors="ignore")
        came = os.read(terminal, 1024)
        if not came:  # nobody is there any more
            time.sleep(max(0.0, until - time.monotonic()))
            return ""
        keys += came
