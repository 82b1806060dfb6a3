"""`episodic_dataset_factory`: windows of observations and actions from HDF5 episodes and a task JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from model_constructor import did_you_mean

from experiment_training.components.dataloader.hdf5_task import TaskLayout, read_task
from trainer.config.errors import ParameterError
from trainer.config.parameters import FrameOffset, Frames, PathText, Text, parse_parameters
from trainer.config.paths import find_input
from trainer.data.errors import DatasetError, WindowError
from trainer.data.windows import Window, action_offsets, history_offsets
from trainer.registry import DATASET_BUILDER_REGISTRY

if TYPE_CHECKING:
    from experiment_training.components.dataloader.hdf5_episodes import EpisodicDataset

HistoryOrder = Literal["oldest_first", "newest_first"]
StereoHalf = Literal["left", "right", "both"]

_FEATURE_FILES = "features"
_MIRRORED_FILES = "mirror"


@dataclass(frozen=True)
class EpisodicDatasetParams:
    """The parameters under `data.datamodule.params`.

    Attributes:
        task_config_path: folder of the task JSONs; relative ones are looked up beside the configuration, then
            in the project.
        task_name: the task: `<task_config_path>/<task_name>.json`. Also the project name for the tracker.
        dataset_dir_l: folder with the episodes, all `*.hdf5` at any depth, but those with `features` in their
            names. Their paths, sorted, number them.
        chunk_size: actions in a chunk (S).
        robot_obs_size: frames of the observation vector (T), the present one included.
        img_obs_size: frames of every camera; one alone comes without a dimension for it.
        skip_mirrored_data: leave out files with `mirror` in their names.
        action_offset: the first action of the chunk, in frames from the present one: 0 is the action taken at
            the present frame, 1 the one after it.
        history_order: whether index 0 of a history is its oldest or its newest frame.
        stereo_half: which half of the pictures is taken where a stereo camera stores two side by side; `both`
            takes them whole.
        cameras: the cameras to use; all by default, none with an empty list.
    """

    task_config_path: PathText
    task_name: Text
    dataset_dir_l: PathText
    chunk_size: Frames
    robot_obs_size: Frames
    img_obs_size: Frames
    skip_mirrored_data: bool
    action_offset: FrameOffset = 0
    history_order: HistoryOrder = "oldest_first"
    stereo_half: StereoHalf = "left"
    cameras: list[str] | None = None


@DATASET_BUILDER_REGISTRY.register("episodic_dataset_factory")
class EpisodicDatasetFactory:
    """Builds an `EpisodicDataset` with the exact statistics of observation and action."""

    parameters = EpisodicDatasetParams

    def build(self, opt_params: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
        """Find, open and check the episodes.

        Args:
            opt_params: of these, `search_paths` is used, the folders for relative paths, nearest first.
            params: the fields of `EpisodicDatasetParams`.

        Returns:
            `dataset`, an `EpisodicDataset`, and `norm_stats`, exact statistics of `observation.state` and
            `action` over all frames.

        Raises:
            ParameterError: a parameter is unknown, missing or cannot be used, h5py is not installed, or the
                JSON or an episode is missing, damaged or lacks what is asked of it.
        """
        chosen = parse_parameters(EpisodicDatasetParams, params)
        folders = [Path(folder) for folder in opt_params.get("search_paths") or [Path.cwd()]]
        layout = _layout(chosen, folders)
        paths = _episodes(chosen, folders)
        windows = _windows(chosen, layout)
        try:
            dataset = _dataset_class()(paths, layout, windows, chosen.stereo_half)
        except WindowError as problem:
            by_key = {"action": "chunk_size", "observation.state": "robot_obs_size"}
            raise ParameterError(by_key.get(problem.key, "img_obs_size"), str(problem)) from None
        except DatasetError as problem:
            raise ParameterError("dataset_dir_l", str(problem)) from None
        return {"dataset": dataset, "norm_stats": dataset.statistics()}


def _dataset_class() -> type[EpisodicDataset]:
    """Return the dataset, which needs h5py: other experiments name this plugin without it."""
    try:
        from experiment_training.components.dataloader.hdf5_episodes import EpisodicDataset
    except ModuleNotFoundError as problem:
        if problem.name != "h5py":
            raise
        raise ParameterError(
            "dataset_dir_l",
            "reading HDF5 episodes needs h5py, which is not installed",
            "pip install 'trainer-il[hdf5]'",
        ) from None
    return EpisodicDataset


def _layout(params: EpisodicDatasetParams, folders: list[Path]) -> TaskLayout:
    folder = find_input(params.task_config_path, folders)
    if folder is None or not folder.is_dir():
        raise ParameterError("task_config_path", f"there is no folder {params.task_config_path}")
    path = folder / f"{params.task_name}.json"
    if not path.is_file():
        tasks = sorted(p.stem for p in folder.glob("*.json"))
        hint = did_you_mean(params.task_name, tasks)
        raise ParameterError("task_name", f"{folder} has no {path.name}", hint)
    try:
        layout = read_task(path)
    except DatasetError as problem:
        raise ParameterError("task_name", str(problem)) from None
    for name in params.cameras or ():
        if name not in layout.cameras:
            hint = did_you_mean(name, layout.cameras, "it has")
            raise ParameterError("cameras", f"{path} has no camera '{name}'", hint)
    return layout


def _episodes(params: EpisodicDatasetParams, folders: list[Path]) -> list[Path]:
    root = find_input(params.dataset_dir_l, folders)
    if root is None or not root.is_dir():
        raise ParameterError("dataset_dir_l", f"there is no folder {params.dataset_dir_l}")
    paths = sorted(path for path in root.rglob("*.hdf5") if _FEATURE_FILES not in path.name)
    if params.skip_mirrored_data:
        paths = [path for path in paths if _MIRRORED_FILES not in path.name]
    if not paths:
        raise ParameterError("dataset_dir_l", f"{root} has no episode (*.hdf5) in it")
    return paths


def _windows(params: EpisodicDatasetParams, layout: TaskLayout) -> list[Window]:
    cameras = list(layout.cameras) if params.cameras is None else params.cameras
    if not cameras and params.img_obs_size != 1:
        raise ParameterError(
            "img_obs_size", f"no camera is used, so {params.img_obs_size} has no effect", "leave it at 1"
        )
    frames = history_offsets(params.img_obs_size, params.history_order, 1)
    return [
        Window("observation.state", history_offsets(params.robot_obs_size, params.history_order, 1)),
        *(Window(f"observation.images.{name}", frames) for name in cameras),
        Window("action", action_offsets(params.chunk_size, params.action_offset, 1)),
    ]
