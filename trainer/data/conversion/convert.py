"""`convert`: demonstrations of another project, written as a LeRobot v3.0 dataset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trainer.data.conversion.aloha import open_aloha
from trainer.data.conversion.diffusion_policy import open_diffusion_policy
from trainer.data.conversion.robomimic import open_robomimic
from trainer.data.conversion.source import Source, needed
from trainer.data.errors import DatasetError
from trainer.data.lerobot import LeRobotWriter
from trainer.utils.progress import progress_bar

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
    if target.exists():
        raise DatasetError(f"{target}: it exists already; give another name or remove it")
    format = format or detect(source)
    opened = FORMATS[format](source)
    if fps is None:
        fps = opened.fps
    if fps is None:
        raise DatasetError(f"{source}: the files do not say how many frames per second they have; give --fps")
    if not fps > 0:
        raise DatasetError(f"fps must be above 0, it is {fps}")
    dropped = [] if cameras else [name for name, (dtype, _) in opened.features.items() if dtype == "video"]
    features = {name: entry for name, entry in opened.descriptions().items() if name not in dropped}
    words = task or opened.task or source.resolve().name.split(".")[0].replace("_", " ")
    frames = 0
    with (
        LeRobotWriter(
            target,
            fps=int(fps) if float(fps).is_integer() else fps,
            features=features,
            robot_type=robot_type or opened.robot_type,
            metadata={"converted_from": format, "source": source.name},
        ) as writer,
        progress_bar(opened.count, f"converting {source.name}", "episode") as bar,
    ):
        for columns in opened.episodes():
            writer.add_episode({name: columns[name] for name in features}, words)
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
        h5py = needed("h5py", "HDF5 files")
        try:
            with h5py.File(source, "r") as file:
                if "data" in file:
                    return "robomimic_hdf5"
                if "observations/qpos" in file:
                    return "aloha_hdf5"
        except OSError as problem:
            raise DatasetError(f"{source}: this cannot be read as HDF5: {problem}") from None
    raise DatasetError(
        f"{source}: none of the formats {', '.join(FORMATS)} is found in it; name it with --format"
    )
