"""`lerobot_dataset_factory`: windows of observations and actions from a LeRobot dataset on disk or hub."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from model_constructor import did_you_mean

from trainer.config.errors import ParameterError
from trainer.config.parameters import FrameOffset, Frames, PathText, PositiveNumber, Text, parse_parameters
from trainer.config.paths import expanded
from trainer.data.columns import ACTION
from trainer.data.errors import DatasetError, EpisodesError, WindowError
from trainer.data.lerobot.info import BOOKKEEPING, INFO_PATH, VERSION
from trainer.data.windows import Window, action_offsets, frame_stride, history_offsets
from trainer.registry import DATASET_BUILDER_REGISTRY
from trainer.utils.import_utils import needs_training_libraries
from trainer.utils.log import log
from trainer.utils.text import first_line

if TYPE_CHECKING:
    from trainer.data.lerobot import LeRobotReader

HistoryOrder = Literal["oldest_first", "newest_first"]


@dataclass(frozen=True)
class LerobotDatasetParams:
    """The parameters under `data.datamodule.params`.

    Attributes:
        repo_id: name on the hub, `owner/name`, or a folder.
        root: the dataset's folder, or a folder that holds `repo_id`; relative ones are looked up beside
            the configuration, then in the project. One that is not there is refused.
        local_files_only: never ask the hub; and where `root` is given, look nowhere else.
        HZ: control rate; windows step by 1/HZ seconds, which must fall on recorded frames. The recording's
            own rate if not given.
        action_horizon: actions in a chunk (S).
        obs_proprio_history: frames of every low-dimensional observation (T), the present one included.
        obs_images_history: frames of every camera; one alone comes without a dimension for it.
        task_name: project name for the tracker.
        action_offset: the first action of the chunk, in steps from the present frame: 0 is the action taken
            at the present frame, 1 the one after it.
        history_order: whether index 0 of a history is its oldest or its newest frame.
        episodes: what to train on: a list of episode numbers, of ranges written as text (`"0:50"` is episodes
            0 to 49) and of names of the dataset's splits (`train`), or one such text; all by default.
        features: observations to use, cameras among them; by default every `observation.…` that is numbers or
            frames.
        action_key: the feature that is predicted; in a batch, in statistics and on the robot it is `action`.
            Integers and flags are predicted as floats.
        frame_cache: folder for decoded frames, below the project if relative: decoded once, then a batch of
            frames costs a copy. It takes N · 3 · H · W bytes per camera. None decodes on the fly. Columns of
            numbers above 256 MB are kept there too; without it in the user's cache folder.
    """

    repo_id: PathText | None = None
    root: PathText | None = None
    local_files_only: bool = False
    HZ: PositiveNumber | None = None
    action_horizon: Frames = 1
    obs_proprio_history: Frames = 1
    obs_images_history: Frames = 1
    task_name: Text | None = None
    action_offset: FrameOffset = 0
    history_order: HistoryOrder = "oldest_first"
    episodes: list[int | str] | str | None = None
    features: list[str] | None = None
    action_key: Text = "action"
    frame_cache: PathText | None = None


@DATASET_BUILDER_REGISTRY.register("lerobot_dataset_factory")
class LerobotDatasetFactory:
    """Builds a `WindowedDataset` with the exact statistics of the features in it."""

    parameters = LerobotDatasetParams
    may_change = ("frame_cache",)

    def build(self, opt_params: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
        """Find, open and check the dataset.

        Args:
            opt_params: of these, `search_paths` is used, the folders for relative paths, nearest first, and
                `project`, below which frames are kept.
            params: the fields of `LerobotDatasetParams`.

        Returns:
            `dataset`, a `WindowedDataset`, and `norm_stats`, exact statistics over the chosen episodes of
            every low-dimensional observation in it and of the action.

        Raises:
            ParameterError: a parameter is unknown or cannot be used, or the dataset is missing, damaged
                or lacks what is asked of it.
        """
        chosen = parse_parameters(LerobotDatasetParams, params)
        if chosen.repo_id is None and chosen.root is None:
            raise ParameterError("repo_id", "a dataset is needed", "give repo_id, root, or both")
        # Not at the top: a robot imports all plugins of its policy, and reads no dataset.
        with needs_training_libraries("Reading a dataset"):
            from trainer.data.dataset import WindowedDataset
            from trainer.data.lerobot import LeRobotReader

        # What is wrong with the files is shown at the parameter that led to them.
        source = "repo_id" if chosen.root is None else "root"
        cache = chosen.frame_cache
        folders = [Path(folder) for folder in opt_params.get("search_paths") or [Path.cwd()]]
        project = Path(opt_params.get("project") or folders[-1])
        kept = None if cache is None else project / expanded(cache)
        root = find_dataset(chosen, folders)
        try:
            reader = LeRobotReader(root, repo_id=chosen.repo_id, cache=kept)
            features = _observations(chosen, reader)
            _check_action(chosen, reader)
            windows = _windows(chosen, reader, features)
            dataset = WindowedDataset(
                reader,
                windows,
                episodes=chosen.episodes,
                frame_cache=kept,
                floats=[chosen.action_key],
            )
        except EpisodesError as problem:
            raise ParameterError("episodes", problem.message, problem.hint) from None
        except WindowError as problem:
            camera = reader.features[problem.key].is_frames
            history = "obs_images_history" if camera else "obs_proprio_history"
            raise ParameterError(
                "action_horizon" if problem.key == chosen.action_key else history, str(problem)
            ) from None
        except DatasetError as problem:
            raise ParameterError(source, str(problem)) from None
        if cache is not None and not dataset.image_keys:
            raise ParameterError("frame_cache", "no camera is used, so there are no frames to keep")
        numbers = [name for name in features if reader.features[name].is_numeric]
        stats = dataset.statistics([*numbers, chosen.action_key])
        for sentence in dataset.disagreements(stats):
            log.warning(f"{sentence}.")
        kept_frames = "data.datamodule.params.frame_cache keeps the frames decoded"
        return {
            "dataset": dataset,
            "norm_stats": stats,
            "without_effect": {} if cache is None else {"data.frame_memory": kept_frames},
        }


def find_dataset(params: LerobotDatasetParams, search_paths: Sequence[Path]) -> Path:
    """Return the folder of the dataset; fetch it from the hub when it is nowhere on disk.

    Looked at, in this order: `root`, `root/repo_id`, `repo_id` as a path, lerobot's own cache
    (`$HF_LEROBOT_HOME`), and the hub. A `root` must be a folder, and with `local_files_only` the dataset must
    be in it; what is taken in place of it is said.

    Raises:
        ParameterError: it is nowhere, and must not or cannot be fetched.
    """
    looked: list[Path] = []

    def found(name: str) -> Path | None:
        path = expanded(name)
        for candidate in [path] if path.is_absolute() else [folder / path for folder in search_paths]:
            looked.append(candidate)
            if os.path.isfile(candidate / INFO_PATH):
                return candidate.resolve()
        return None

    root, repo_id = params.root, params.repo_id
    for name in [] if root is None else [root, *([os.path.join(root, repo_id)] if repo_id else [])]:
        folder = found(name)
        if folder is not None:
            return folder
    instead = None
    if repo_id is not None and (root is None or _may_be_elsewhere(params, search_paths)):
        instead = found(repo_id)
        if instead is None and _HUB_NAME.fullmatch(repo_id):
            cache = expanded(os.environ.get("HF_LEROBOT_HOME", "~/.cache/huggingface/lerobot"))
            instead = found(str(cache / repo_id))
            if instead is None and not params.local_files_only:
                instead = fetch_dataset(repo_id, params.features)
    if instead is None:
        hint = f"looked in {', '.join(str(folder) for folder in looked)}"
        if root is not None and repo_id is not None:
            hint += f"; without root, '{repo_id}' is looked up in the cache and on the hub"
        raise ParameterError(
            "repo_id" if root is None else "root",
            f"there is no dataset (a folder with {INFO_PATH}) at {root or repo_id}",
            hint,
        )
    if root is None:
        log.info(f"The dataset '{repo_id}' is read from {instead}.")
    else:
        log.warning(f"there is no dataset '{repo_id}' in root: {root}; it is read from {instead}.")
    return instead


def _may_be_elsewhere(params: LerobotDatasetParams, search_paths: Sequence[Path]) -> bool:
    """Say whether a dataset that is not in `root` may be another: `root` is there, and the hub is allowed."""
    assert params.root is not None
    there = any(os.path.isdir(folder / expanded(params.root)) for folder in search_paths)
    return there and not params.local_files_only


def fetch_dataset(repo_id: str, features: Sequence[str] | None = None) -> Path:
    """Fetch a dataset from the hub; return its folder.

    Of the videos those of `features` are fetched, all by default. The revision is the one tagged with the
    format version, as lerobot tags its datasets, else the newest.

    Raises:
        ParameterError: huggingface_hub is not installed, or the hub does not give the dataset.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import RevisionNotFoundError
    except ImportError:
        raise ParameterError(
            "repo_id",
            f"'{repo_id}' is not on disk, and fetching it needs huggingface_hub, which is not installed",
            "pip install 'trainer-il[hub]', or give the dataset's folder as root",
        ) from None

    # Cameras are the folders below videos/ in format v3.0, and one level further down in v2.1.
    videos = ["videos/*"] if features is None else [f"videos/{p}{f}/*" for f in features for p in ("", "*/")]

    def fetch(revision: str | None) -> Path:
        patterns = ["meta/*", "data/*", *videos]
        return Path(
            snapshot_download(repo_id, repo_type="dataset", revision=revision, allow_patterns=patterns)
        )

    try:
        try:
            return fetch(VERSION)
        except RevisionNotFoundError:
            return fetch(None)
    except Exception as problem:  # no network, no such dataset, no right to it, no space: all end here
        reason = first_line(problem)
        raise ParameterError(
            "repo_id",
            f"'{repo_id}' is not on disk and cannot be fetched from the hub: {reason}",
            "give the dataset's folder as root, or set local_files_only: true to look on disk alone",
        ) from None


_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def _observations(params: LerobotDatasetParams, reader: LeRobotReader) -> list[str]:
    """Return the observations to use."""
    if params.features is None:
        usable = {*reader.numeric_features("observation."), *reader.camera_features("observation.")}
        found = [name for name in reader.features if name in usable and name != params.action_key]
    else:
        found = _named_observations(params, reader)
    if params.action_key != ACTION and ACTION in found:
        raise ParameterError(
            "features",
            f"'{ACTION}' cannot be observed: in a batch '{params.action_key}' (action_key) is called so",
            "leave it out",
        )
    if not found:
        raise ParameterError("features", f"{reader.root}: there is no observation to use")
    if params.obs_images_history != 1 and not any(reader.features[name].is_frames for name in found):
        raise ParameterError(
            "obs_images_history",
            f"no camera is used, so {params.obs_images_history} has no effect",
            "leave it at 1",
        )
    return found


def _named_observations(params: LerobotDatasetParams, reader: LeRobotReader) -> list[str]:
    assert params.features is not None
    for name in params.features:
        feature = reader.features.get(name)
        if feature is None:
            raise ParameterError("features", *_no_column(reader, name))
        if not feature.is_numeric and not feature.is_frames:
            raise ParameterError("features", f"{reader.root}: {feature.why_not_numeric()}")
        if name == params.action_key or name in BOOKKEEPING:
            raise ParameterError("features", f"'{name}' is in every sample already; leave it out")
        if params.features.count(name) > 1:
            raise ParameterError("features", f"'{name}' is named more than once")
    return list(params.features)


def _check_action(params: LerobotDatasetParams, reader: LeRobotReader) -> None:
    feature = reader.features.get(params.action_key)
    if feature is None or params.action_key in BOOKKEEPING:
        raise ParameterError("action_key", *_no_column(reader, params.action_key))
    if not feature.is_numeric:
        raise ParameterError("action_key", f"{reader.root}: {feature.why_not_numeric()}")


def _no_column(reader: LeRobotReader, name: str) -> tuple[str, str]:
    usable = [n for n, f in reader.features.items() if (f.is_numeric or f.is_frames) and n not in BOOKKEEPING]
    return f"{reader.root}: the dataset has no column '{name}'", did_you_mean(name, usable, "it has")


def _windows(params: LerobotDatasetParams, reader: LeRobotReader, features: Sequence[str]) -> list[Window]:
    ends = (params.action_offset, params.action_offset + params.action_horizon - 1)
    furthest = max(*map(abs, ends), params.obs_proprio_history - 1, params.obs_images_history - 1)
    try:
        stride = 1 if params.HZ is None else frame_stride(params.HZ, reader.fps, furthest)
    except (ValueError, OverflowError) as problem:
        raise ParameterError("HZ", f"{reader.root}: {problem}") from None
    chunk = action_offsets(params.action_horizon, params.action_offset, stride)
    windows = []
    for name in features:
        camera = reader.features[name].is_frames
        history = params.obs_images_history if camera else params.obs_proprio_history
        windows.append(Window(name, history_offsets(history, params.history_order, stride)))
    return [*windows, Window(params.action_key, chunk, ACTION)]
