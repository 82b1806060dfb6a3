"""Rollout videos inside the page: embedded while they fit, a sheet of frames otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

import av
import numpy as np
from PIL import Image

from trainer.pages.parts.pictures import data_uri, jpeg_uri
from trainer.pages.report.run_folder import Episode

# Base64 adds a third: a page of this size still opens at once and can be sent by mail.
VIDEO_BUDGET_BYTES = 12_000_000
MAX_VIDEOS = 24
_FRAME_SHEETS = 12
# What every current browser plays; mp4 files with other codecs would show as a black box.
_PLAYABLE = {"h264": ("yuv420p", "yuvj420p"), "vp9": ("yuv420p",), "vp8": ("yuv420p",), "av1": ("yuv420p",)}
_TYPES = {".mp4": "video/mp4", ".webm": "video/webm"}


@dataclass(frozen=True)
class Rollout:
    """One episode with its video as a data URI, or a sheet of frames, or the reason why there is neither."""

    episode: Episode
    video: str | None = None
    poster: str | None = None
    frames: str | None = None
    reason: str = ""


@dataclass(frozen=True)
class Rollouts:
    """The pictures of one evaluation; `left_out` names the episodes whose video is only in the run folder."""

    shown: tuple[Rollout, ...]
    left_out: tuple[Episode, ...]
    recorded: int


def collect_rollouts(episodes: Sequence[Episode], budget: int = VIDEO_BUDGET_BYTES) -> Rollouts:
    """Choose failures and successes in turn until `budget` bytes of video are used."""
    recorded = [episode for episode in episodes if episode.video is not None]
    failures = [episode for episode in recorded if episode.success is False]
    others = [episode for episode in recorded if episode.success is not False]
    in_turn = [e for e in chain.from_iterable(zip_longest(failures, others)) if e is not None]
    shown: list[Rollout] = []
    left_out: list[Episode] = []
    used = sheets = 0
    for episode in in_turn:
        path = episode.video
        assert path is not None, "only episodes with a video were chosen"
        if not path.is_file():
            shown.append(Rollout(episode, reason=f"The file {path.name} is missing."))
            continue
        size = path.stat().st_size
        fits = used + size <= budget and sum(r.video is not None for r in shown) < MAX_VIDEOS
        problem = _unplayable(path)
        if fits and problem is None:
            film = data_uri(_TYPES[path.suffix.lower()], path.read_bytes())
            shown.append(Rollout(episode, video=film, poster=_frame_sheet(path, _POSTER)))
            used += size
            continue
        if sheets == _FRAME_SHEETS:
            left_out.append(episode)
            continue
        sheet = _frame_sheet(path, _SHEET)
        reason = problem or "Frames only: the page has no room for more video."
        sheets += sheet is not None
        shown.append(Rollout(episode, frames=sheet, reason=reason))
    return Rollouts(
        shown=tuple(sorted(shown, key=lambda rollout: rollout.episode.episode)),
        left_out=tuple(sorted(left_out, key=lambda episode: episode.episode)),
        recorded=len(recorded),
    )


def _unplayable(path: Path) -> str | None:
    """Return why a browser cannot play a file, in one sentence, or `None`."""
    if path.suffix.lower() not in _TYPES:
        return f"Frames only: browsers do not play {path.suffix or 'files without an ending'}."
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                return f"The file {path.name} holds no video."
            codec = container.streams.video[0].codec_context
            if codec.pix_fmt in _PLAYABLE.get(codec.name, ()) or codec.name.startswith(
                ("libdav1d", "libvpx")
            ):
                return None
            return f"Frames only: not every browser plays {codec.name} in {codec.pix_fmt}."
    except (av.FFmpegError, OSError, ValueError):
        return f"The file {path.name} cannot be read."


@dataclass(frozen=True)
class _Sheet:
    """`side` × `side` frames of `height` pixels each, in reading order."""

    side: int
    height: int


_SHEET = _Sheet(side=2, height=120)
_POSTER = _Sheet(side=1, height=240)  # the last frame: on paper and before playing it shows how it ended


def _frame_sheet(path: Path, sheet: _Sheet) -> str | None:
    """Return evenly spaced frames up to the last as one JPEG data URI.

    `None` where nothing can be decoded.
    """
    frames: list[np.ndarray] = []
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            total = stream.frames or sum(1 for _ in container.decode(stream))
            container.seek(0)
            wanted = set(np.linspace(max(total - 1, 0), 0, sheet.side**2).astype(int).tolist())
            for position, frame in enumerate(container.decode(stream)):
                if position in wanted:
                    width = max(1, round(frame.width * sheet.height / frame.height))
                    picture = frame.to_image().resize((width, sheet.height))
                    frames.append(np.asarray(picture.convert("RGB")))
    except (av.FFmpegError, OSError, ValueError, IndexError):
        pass  # what was decoded before the damage is still worth showing
    if not frames:
        return None
    # A film shorter than the sheet, or damaged, leaves the rest black.
    frames += [np.zeros_like(frames[0])] * (sheet.side**2 - len(frames))
    rows = [np.concatenate(frames[i : i + sheet.side], axis=1) for i in range(0, len(frames), sheet.side)]
    return jpeg_uri(Image.fromarray(np.concatenate(rows)))
