"""The episodes of a LeRobot dataset: their lengths, tasks and places."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from trainer.data.errors import DatasetError
from trainer.data.lerobot.columns import column_names, read_table, to_numpy
from trainer.data.lerobot.info import TASKS_PATH, DatasetInfo, Feature


@dataclass(frozen=True)
class DataFile:
    """One parquet file and the episodes in it.

    Attributes:
        path: the file.
        episodes: positions in the episode table, ascending.
    """

    path: Path
    episodes: np.ndarray


@dataclass(frozen=True)
class EpisodeTable:
    """All episodes, in the order of their frames.

    Attributes:
        columns: every column of the table that is one number per episode, by its name on disk, such as
            `episode_index`, `length`, `data/file_index` or `videos/<camera>/from_timestamp`.
        tasks: the task texts of each episode.
        files: the data files, in the order of their numbers.
    """

    columns: dict[str, np.ndarray]
    tasks: tuple[tuple[str, ...], ...]
    files: tuple[DataFile, ...]

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def episode_index(self) -> np.ndarray:
        """Number of each episode, int64 `(E,)`."""
        return self.columns["episode_index"]

    @property
    def length(self) -> np.ndarray:
        """Frames in each episode, int64 `(E,)`."""
        return self.columns["length"]

    @property
    def start(self) -> np.ndarray:
        """First row of each episode in the columns, int64 `(E,)`."""
        return self.columns["dataset_from_index"]

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """Return the rows of the episodes at some places of the table, one episode after the other."""
        lengths = self.length[positions]
        before = np.cumsum(lengths) - lengths
        return np.repeat(self.start[positions] - before, lengths) + np.arange(int(lengths.sum()))


def read_episodes(root: Path, info: DatasetInfo) -> EpisodeTable:
    """Read the episode table of either format version.

    Raises:
        DatasetError: a file or column is missing or damaged, an episode is empty, or the episodes do not
            make up the frames that the dataset says it has.
    """
    if info.version == "v2.1":
        columns, tasks, where = _read_v21(root)
    else:
        columns, tasks, where = _read_v30(root)
    count = len(tasks)
    if count != info.total_episodes:
        raise DatasetError(f"{where}: {count} episodes are listed, info.json says {info.total_episodes}")
    empty = np.flatnonzero(columns["length"] < 1)
    if len(empty):
        raise DatasetError(f"{where}: episode {columns['episode_index'][empty[0]]} is empty")
    numbers, repeats = np.unique(columns["episode_index"], return_counts=True)
    if len(numbers) != count:
        raise DatasetError(f"{where}: episode {numbers[repeats > 1][0]} is listed twice")
    order = np.argsort(columns["dataset_from_index"], kind="stable")
    columns = {name: np.ascontiguousarray(column[order]) for name, column in columns.items()}
    tasks = [tasks[i] for i in order]
    _check_ranges(columns, info, where)
    return EpisodeTable(columns, tuple(tasks), _data_files(root, info, columns))


def read_tasks(root: Path, info: DatasetInfo) -> list[str]:
    """Return the task texts, each at its `task_index`.

    Raises:
        DatasetError: the file is missing or damaged, or its numbers are not 0, 1, 2, ….
    """
    if info.version == "v2.1":
        path = root / "meta/tasks.jsonl"
        entries = [
            (_whole_number(line["task_index"], "task_index", f"{path}: line {number}"), line["task"])
            for number, line in _json_lines(path, "task_index", "task")
        ]
    else:
        path = root / TASKS_PATH
        table = read_table(path)
        others = [name for name in table.column_names if name != "task_index"]
        if "task_index" not in table.column_names or len(others) != 1:
            raise DatasetError(f"{path}: the columns are {table.column_names}, not task_index and the text")
        numbers = _numbers(table, "task_index", path)
        entries = list(zip(numbers.tolist(), _texts(table, others[0], path), strict=True))
    texts: dict[int, str] = {}
    for index, text in entries:
        if not isinstance(text, str):
            raise DatasetError(f"{path}: task {index} has {text!r} where its text should be")
        if texts.setdefault(index, text) != text:
            raise DatasetError(f"{path}: task {index} has two texts, '{texts[index]}' and '{text}'")
    if sorted(texts) != list(range(len(texts))):
        raise DatasetError(f"{path}: task_index must count from 0, it is {sorted(texts)}")
    return [texts[i] for i in range(len(texts))]


def read_episode_stats(
    root: Path, info: DatasetInfo, keys: Sequence[str], statistics: Sequence[str]
) -> dict[str, dict[str, np.ndarray]]:
    """Return the statistics that the writer stored of every episode, as far as there are any.

    Args:
        root: the dataset's folder.
        info: what it says of itself.
        keys: features made of numbers.
        statistics: names, such as `mean`.

    Returns:
        Feature → statistic → its numbers, float64 `(E, D)`, in the order of the frames; without what is not
        there for every episode.

    Raises:
        DatasetError: a file is damaged, or a statistic has another number of numbers than its feature.
    """
    places = {
        f"stats/{key}/{name}": Feature(name, "float64", (1,) if name == "count" else info.features[key].shape)
        for key in keys
        for name in statistics
    }
    read = _episode_stats_v21 if info.version == "v2.1" else _episode_stats_v30
    found: dict[str, dict[str, np.ndarray]] = {}
    for place, values in read(root, places).items():
        key, _, name = place.removeprefix("stats/").rpartition("/")
        found.setdefault(key, {})[name] = values.reshape(len(values), -1)
    return found


def _episode_stats_v30(root: Path, places: Mapping[str, Feature]) -> dict[str, np.ndarray]:
    parts: dict[str, list[np.ndarray]] = {}
    starts: list[np.ndarray] = []
    paths = sorted((root / "meta/episodes").glob("chunk-*/file-*.parquet"))
    for path in paths:
        there = set(column_names(path))
        table = read_table(path, ["dataset_from_index", *(place for place in places if place in there)])
        starts.append(_numbers(table, "dataset_from_index", path))
        for place in table.column_names[1:]:
            if not table.column(place).null_count:
                values = to_numpy(table.column(place), places[place], path)
                parts.setdefault(place, []).append(values)
    order = np.argsort(np.concatenate(starts), kind="stable")
    return {place: np.concatenate(p)[order] for place, p in parts.items() if len(p) == len(paths)}


def _episode_stats_v21(root: Path, places: Mapping[str, Feature]) -> dict[str, np.ndarray]:
    path = root / "meta/episodes_stats.jsonl"
    if not path.is_file():
        return {}
    lines = sorted(_json_lines(path, "episode_index", "stats"), key=lambda line: line[1]["episode_index"])
    found: dict[str, np.ndarray] = {}
    for place, feature in places.items():
        key = place.removeprefix("stats/").rpartition("/")[0]
        try:
            rows = [np.asarray(line["stats"][key][feature.name], np.float64).reshape(-1) for _, line in lines]
        except KeyError:
            continue
        except (TypeError, ValueError) as problem:
            raise DatasetError(f"{path}: these are not statistics: {problem}") from None
        width = int(np.prod(feature.shape, dtype=np.int64))
        wrong = next(
            (number for (number, _), row in zip(lines, rows, strict=True) if len(row) != width), None
        )
        if wrong is not None:
            raise DatasetError(f"{path}: line {wrong}: '{feature.name}' of '{key}' has not {width} numbers")
        found[place] = np.stack(rows)
    return found


def other_task(episodes: EpisodeTable, tasks: list[str], position: int, indices: np.ndarray) -> str | None:
    """Say which task the rows of an episode have that the episode table does not give it; None where none.

    A table that speaks of its tasks in words other than theirs says nothing about the rows.

    Args:
        episodes: the episode table.
        tasks: the task texts.
        position: place of the episode in the table.
        indices: `task_index` of its rows.
    """
    named = set(episodes.tasks[position])
    if not named or not named <= set(tasks):
        return None
    return next(
        (tasks[i] for i in np.unique(indices).tolist() if 0 <= i < len(tasks) and tasks[i] not in named), None
    )


def _texts(table: pa.Table, name: str, path: Path) -> list[Any]:
    try:
        texts: list[Any] = table.column(name).to_pylist()
    except UnicodeDecodeError:
        raise DatasetError(f"{path}: column '{name}' is damaged, it holds no text") from None
    return texts


def _numbers(table: pa.Table, name: str, path: Path) -> np.ndarray:
    """Return a column of whole numbers, int64."""
    return to_numpy(table.column(name), Feature(name, "int64", ()), path)


def _named_tasks(value: Any, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise DatasetError(f"{where}: tasks must be a list of texts, it is {value!r}")
    return tuple(value)


def _read_v30(root: Path) -> tuple[dict[str, np.ndarray], list[tuple[str, ...]], Path]:
    folder = root / "meta/episodes"
    paths = sorted(folder.glob("chunk-*/file-*.parquet"))
    if not paths:
        raise DatasetError(f"{folder}: there is no episode table in it")
    needed = ("episode_index", "length", "data/chunk_index", "data/file_index", "dataset_from_index")
    parts: dict[str, list[np.ndarray]] = {}
    tasks: list[tuple[str, ...]] = []
    for path in paths:
        # The statistics of each episode are most of the file, and nobody asks for them here.
        table = read_table(path, without="stats/")
        for name in (*needed, "tasks"):
            if name not in table.column_names:
                raise DatasetError(f"{path}: the column '{name}' is missing")
        for name in table.column_names:
            column = table.column(name)
            if name in needed:
                parts.setdefault(name, []).append(_numbers(table, name, path))
            elif pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
                parts.setdefault(name, []).append(column.to_numpy())
        numbers = parts["episode_index"][-1].tolist()
        named = _texts(table, "tasks", path)
        tasks += [_named_tasks(t, f"{path}: episode {n}") for n, t in zip(numbers, named, strict=True)]
    # A column that only some of the files have says nothing about all episodes.
    columns = {name: np.concatenate(part) for name, part in parts.items() if len(part) == len(paths)}
    return columns, tasks, folder


def _read_v21(root: Path) -> tuple[dict[str, np.ndarray], list[tuple[str, ...]], Path]:
    path = root / "meta/episodes.jsonl"
    found: list[tuple[int, int, tuple[str, ...]]] = []
    for number, line in _json_lines(path, "episode_index", "length"):
        where = f"{path}: line {number}"
        index, length = (_whole_number(line[key], key, where) for key in ("episode_index", "length"))
        found.append((index, length, _named_tasks(line.get("tasks"), where)))
    found.sort(key=lambda entry: entry[0])
    lengths = np.array([length for _, length, _ in found], np.int64)
    columns = {
        "episode_index": np.array([index for index, _, _ in found], np.int64),
        "length": lengths,
        "dataset_from_index": np.cumsum(lengths) - lengths,
    }
    return columns, [tasks for _, _, tasks in found], path


def _json_lines(path: Path, *needed: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the content of each line; a line ends at a line feed and nowhere else."""
    if not path.is_file():
        raise DatasetError(f"{path}: the file is missing")
    try:
        content = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as problem:
        raise DatasetError(f"{path}: the file is damaged, it is no UTF-8: {problem.reason}") from None
    for number, text in enumerate(content.split("\n"), start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except json.JSONDecodeError as problem:
            raise DatasetError(f"{path}: line {number} is not JSON: {problem}") from None
        if not isinstance(line, dict) or any(key not in line for key in needed):
            raise DatasetError(f"{path}: line {number} needs the entries {', '.join(needed)}")
        yield number, line


def _whole_number(value: Any, key: str, where: str) -> int:
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or abs(value) >= 2**63:
        raise DatasetError(f"{where}: {key} must be a whole number, it is {value!r}")
    return int(value)


def _check_ranges(columns: dict[str, np.ndarray], info: DatasetInfo, where: Path) -> None:
    """Check that the episodes, one after the other, are all frames of the dataset."""
    expected = np.cumsum(columns["length"]) - columns["length"]
    wrong = np.flatnonzero(columns["dataset_from_index"] != expected)
    if len(wrong):
        episode = columns["episode_index"][wrong[0]]
        raise DatasetError(
            f"{where}: episode {episode} begins at frame {columns['dataset_from_index'][wrong[0]]}, "
            f"the lengths of those before it add up to {expected[wrong[0]]}"
        )
    stops = columns.get("dataset_to_index")
    if stops is not None:
        wrong = np.flatnonzero(stops - columns["dataset_from_index"] != columns["length"])
        if len(wrong):
            raise DatasetError(
                f"{where}: episode {columns['episode_index'][wrong[0]]} has length "
                f"{columns['length'][wrong[0]]}, its frames are {expected[wrong[0]]} to {stops[wrong[0]]}"
            )
    total = int(columns["length"].sum())
    if total != info.total_frames:
        raise DatasetError(f"{where}: the episodes have {total} frames, info.json says {info.total_frames}")


def _data_files(root: Path, info: DatasetInfo, columns: dict[str, np.ndarray]) -> tuple[DataFile, ...]:
    numbers = columns["episode_index"]
    if info.version == "v2.1":
        per_chunk = info.chunks_size
        return tuple(
            DataFile(
                root / info.data_path(episode_chunk=int(number) // per_chunk, episode_index=int(number)),
                np.array([i]),
            )
            for i, number in enumerate(numbers)
        )
    places = np.stack([columns["data/chunk_index"], columns["data/file_index"]], axis=1).astype(np.int64)
    unique, which = np.unique(places, axis=0, return_inverse=True)
    which = which.reshape(-1)
    return tuple(
        DataFile(
            root / info.data_path(chunk_index=int(chunk), file_index=int(file)), np.flatnonzero(which == i)
        )
        for i, (chunk, file) in enumerate(unique)
    )
