"""`convert`: demonstrations of another project, written as a LeRobot v3.0 dataset."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.data.conversion.aloha import open_aloha
from trainer.data.conversion.diffusion_policy import open_diffusion_policy
from trainer.data.conversion.hdf5 import opened as opened_hdf5
from trainer.data.conversion.robomimic import open_robomimic
from trainer.data.conversion.source import Source
from trainer.data.errors import DatasetError
from trainer.data.lerobot import LeRobotWriter
from trainer.data.lerobot.info import INFO_PATH
from trainer.utils.progress import progress_bar
from trainer.utils.text import first_line

FORMATS: dict[str, Callable[[Path], Source]] = {
    "diffusion_policy_zarr": open_diffusion_policy,
    "robomimic_hdf5": open_robomimic,
    "aloha_hdf5": open_aloha,
}
"""The formats by name, and how each is opened."""


@dataclass(frozen=True)
class Converted:
    """What was written."""

    root: Path
    format: str
    episodes: int
    frames: int
    fps: float
    features: tuple[str, ...]
    notes: tuple[str, ...]


def convert(
    source: Path,
    target: Path,
    *,
    format: str | None = None,
    fps: float | None = None,
    task: str | None = None,
    robot_type: str | None = None,
    cameras: bool = True,
) -> Converted:
    """Write the demonstrations at `source` as a LeRobot v3.0 dataset, whole or not at all.

    Memory: one episode of numbers (and of pictures, where zarr keeps them), a frame at a time elsewhere.

    Args:
        source: a file or folder.
        target: the folder to make; it must not exist.
        format: one of `FORMATS`; found out by default.
        fps: frames per second; needed where the source does not say it, and must be what it says.
        task: what the robot is doing; by default what the source says, else its name.
        robot_type: the robot's name; by default what the source says.
        cameras: take the pictures over, as videos.

    Raises:
        DatasetError: the source is missing, damaged or of no known format, the rate is not known, or
            `target` exists.
    """
    if not source.exists():
        raise DatasetError(f"{source}: there is no such file or folder")
    if (source / INFO_PATH).is_file():
        raise DatasetError(
            f"{source}: this is a LeRobot dataset already; look at it with `trainer data inspect {source}`"
        )
    if target.exists():
        raise DatasetError(f"{target}: it exists already; give another name or remove it")
    format = format or detect(source)
    try:
        opened = FORMATS[format](source)
    except (AttributeError, KeyError, OSError, RuntimeError, TypeError) as problem:
        reason = first_line(problem)
        raise DatasetError(
            f"{source}: the file is damaged and cannot be read as {format}: {reason}"
        ) from None
    with contextlib.closing(opened):
        return _written(opened, source, target, format, fps, task, robot_type, cameras)


def _written(
    opened: Source,
    source: Path,
    target: Path,
    format: str,
    fps: float | None,
    task: str | None,
    robot_type: str | None,
    cameras: bool,
) -> Converted:
    if fps is None:
        fps = opened.fps
    if fps is None:
        raise DatasetError(f"{source}: the files do not say how many frames per second they have; give --fps")
    if not fps > 0:
        raise DatasetError(f"fps must be above 0, it is {fps}")
    dropped = [] if cameras else [feature.name for feature in opened.features if feature.dtype == "video"]
    features = {f.name: f.description() for f in opened.features if f.name not in dropped}
    words = task or opened.task or source.resolve().name.split(".")[0].replace("_", " ")
    about: dict[str, Any] = {"converted_from": format, "source": source.name}
    if opened.splits:
        about["splits"] = dict(opened.splits)
    frames = 0
    with (
        LeRobotWriter(
            target,
            fps=int(fps) if float(fps).is_integer() else fps,
            features=features,
            robot_type=robot_type or opened.robot_type,
            metadata=about,
        ) as writer,
        progress_bar(opened.count, f"converting {source.name}", "episode") as bar,
    ):
        for place, columns in enumerate(opened.episodes(features)):
            try:
                writer.add_episode(columns, words)
            except DatasetError as problem:
                source_says = str(problem).removeprefix(f"{target}: ")
                where = opened.where(place)
                raise DatasetError(
                    source_says if source_says.startswith(where) else f"{where}: {source_says}"
                ) from None
            frames += len(columns["action"])
            bar.update()
    notes = opened.notes + ((f"cameras left out: {', '.join(dropped)}",) if dropped else ())
    return Converted(target, format, opened.count, frames, float(fps), tuple(features), notes)


def detect(source: Path) -> str:
    """Return the name of the format of a file or folder, told by what is in it.

    Raises:
        DatasetError: it is none that is known.
    """
    if source.is_dir():
        if (source / "meta" / "episode_ends").is_dir():
            return "diffusion_policy_zarr"
        if any(source.glob("*.hdf5")):
            return "aloha_hdf5"
    elif source.suffix == ".zip":
        return "diffusion_policy_zarr"
    elif source.suffix in (".hdf5", ".h5"):
        with opened_hdf5(source) as file:
            if "data" in file:
                return "robomimic_hdf5"
            if "observations/qpos" in file or "action" in file:
                return "aloha_hdf5"
    raise DatasetError(
        f"{source}: none of the formats {', '.join(FORMATS)} is found in it; name it with --format"
    )
