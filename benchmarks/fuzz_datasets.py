"""Writes small random datasets, sound and damaged, reads them, and holds the result against pyarrow and h5py.

    python benchmarks/fuzz_datasets.py --cases 500 --seed 0

LeRobot datasets are read by their factory, whole and an episode at a time, and inspected; robomimic and ALOHA
files are converted; HDF5 episodes with a task are read by theirs. Each case is read to the numbers that an
independent reader finds, or refused in one sentence that names the file, and the episode or feature where it
is about one; anything else is a finding, and so is a dataset that training refuses and the inspection finds
sound. The same seed gives the same cases. Prints one JSON line; the exit code is 1 when there is a finding,
whose case is then left in a folder.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from hdf5_cases import aloha_case, episodic_case, robomimic_case
from lerobot_cases import BOOKKEEPING, lerobot_case
from PIL import Image
from torch.utils.data import DataLoader

from experiment_training.components.dataloader.episodic_data import EpisodicDatasetFactory
from experiment_training.components.dataloader.lerobot_data import LerobotDatasetFactory
from trainer.config.errors import ParameterError
from trainer.data.conversion import convert
from trainer.data.errors import DatasetError
from trainer.data.inspection import inspect_dataset


class Wrong(Exception):
    """A case was read to other numbers, or two readers disagree."""


def check_lerobot(rng: np.random.Generator, root: Path) -> str:
    """Read a dataset and inspect it; return `right`, `refused`, or `in part` where some episodes are read."""
    inspection = inspect_dataset(root, decode=True) if (root / "meta/info.json").is_file() else None
    try:
        dataset, batch = read_lerobot(root)
    except (ParameterError, DatasetError) as problem:
        check_sentence(str(problem), root)
        found = inspection is None or inspection.faults or any(r.kind == "action" for r in inspection.remarks)
        if not found:
            raise Wrong(f"training says: {problem}; the inspection finds nothing") from None
        parts = 0
        for number in range(3 if inspection is not None and inspection.reader is not None else 0):
            try:
                read_lerobot(root, [number])
                parts += 1
            except (ParameterError, DatasetError) as refusal:
                check_sentence(str(refusal), root)
        return "in part" if parts else "refused"
    for batches in DataLoader(dataset, batch_size=len(dataset)):
        for key, value in batch.items():
            other = batches[key]
            if not (torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other):
                raise Wrong(f"torch's DataLoader has another '{key}'")
    return "right"


def read_lerobot(root: Path, episodes: list[int] | None = None) -> tuple[Any, dict[str, Any]]:
    """Read all samples of a dataset, or of some episodes, and hold them against the files."""
    params: dict[str, Any] = {"root": str(root)} | ({} if episodes is None else {"episodes": episodes})
    dataset = LerobotDatasetFactory().build({}, params)["dataset"]
    batch = dataset.__getitems__(range(len(dataset)))
    names = ("index", "episode_index", "frame_index")
    places = list(zip(*(batch[name].tolist() for name in names), strict=True))
    for key, expected in stored_rows(root, places).items():
        if key in batch:
            compare(key, batch[key].numpy(), expected)
    return dataset, batch


def stored_rows(root: Path, places: list[tuple[int, int, int]]) -> dict[str, list[Any]]:
    """Return what is in the data files of some indices, episodes and frames, as pyarrow reads it."""
    rows: dict[tuple[int, int, int], dict[str, Any]] = {}
    for path in sorted((root / "data").rglob("*.parquet")):
        try:
            for row in pq.read_table(path).to_pylist():
                rows[row["index"], row["episode_index"], row["frame_index"]] = row
        except (pa.ArrowException, OSError, KeyError):
            continue  # a damaged file, of episodes that are not asked for
    return {key: [rows[place][key] for place in places] for key in rows[places[0]]}


def flat(value: Any) -> list[Any]:
    """Return the numbers in nested lists."""
    return [number for one in value for number in flat(one)] if isinstance(value, list) else [value]


def compare(key: str, found: np.ndarray, expected: list[Any]) -> None:
    """Hold a feature of all samples against the rows of the files."""
    if expected and isinstance(expected[0], dict):
        pictures = [np.asarray(Image.open(io.BytesIO(cell["bytes"])).convert("RGB")) for cell in expected]
        if not np.array_equal(found, np.stack(pictures).transpose(0, 3, 1, 2)):
            raise Wrong(f"'{key}' has other pixels")
        return
    wanted = np.array(flat(expected), np.float64).reshape(len(expected), -1)
    got = found.reshape(len(found), -1).astype(np.float64)
    if got.shape != wanted.shape:
        raise Wrong(f"'{key}' has shape {got.shape}, the files have {wanted.shape}")
    slack = np.finfo(found.dtype).eps * np.abs(wanted) + 1e-7 if found.dtype.kind == "f" else 0
    if not (np.abs(got - wanted) <= slack).all():
        raise Wrong(f"'{key}' has other numbers: {got[0]} for {wanted[0]}")


def check_sentence(text: str, folder: Path) -> None:
    """Check that a refusal is one line that names a file."""
    if "\n" in text or len(text) > 1000:
        raise Wrong(f"a refusal of several lines: {text}")
    if str(folder) not in text and "info.json" not in text and "'" not in text:
        raise Wrong(f"a refusal that names nothing: {text}")


def check_robomimic(rng: np.random.Generator, folder: Path) -> str:
    """Convert a file and hold the dataset against it."""
    source, target = folder / "demos.hdf5", folder / "out"
    try:
        convert(source, target)
    except DatasetError as problem:
        check_sentence(str(problem), source)
        return "refused"
    batch = whole(target)
    names = {"actions": "action", "obs/robot0_eef_pos": "observation.state", "rewards": "next.reward"}
    names |= {"obs/object": "observation.object", "obs/counter": "observation.counter"}
    with h5py.File(source, "r") as file:
        demos = sorted(file["data"], key=lambda name: int(name.removeprefix("demo_")))
        for key, name in names.items():
            stored = [file["data"][demo].get(key) for demo in demos]
            if name in batch and all(isinstance(one, h5py.Dataset) for one in stored):
                compare(name, batch[name].numpy(), [v for one in stored for v in one[:].tolist()])
        pictures = [file["data"][demo].get("obs/agentview_image") for demo in demos]
        compare_pictures(batch, "observation.images.agentview", pictures)
    return inspected(target)


def check_aloha(rng: np.random.Generator, folder: Path) -> str:
    """Convert a folder and hold the dataset against it."""
    source, target = folder / "aloha", folder / "out"
    try:
        convert(source, target)
    except DatasetError as problem:
        check_sentence(str(problem), source)
        return "refused"
    batch = whole(target)
    names = {"action": "action", "observations/qpos": "observation.state"}
    names["observations/qvel"] = "observation.velocity"
    paths = sorted(source.glob("*.hdf5"))
    for key, name in names.items():
        rows: list[Any] = []
        for path in paths:
            with h5py.File(path, "r") as file:
                rows += file[key][:].tolist() if name in batch else []
        if rows:
            compare(name, batch[name].numpy(), rows)
    files = [h5py.File(path, "r") for path in paths]
    compare_pictures(batch, "observation.images.top", [file.get("observations/images/top") for file in files])
    for file in files:
        file.close()
    return inspected(target)


def whole(root: Path) -> dict[str, Any]:
    """Return all samples of a dataset with every feature of it."""
    info = json.loads((root / "meta/info.json").read_text())
    names = [name for name in info["features"] if name not in (*BOOKKEEPING, "action")]
    dataset = LerobotDatasetFactory().build({}, {"root": str(root), "features": names})["dataset"]
    return dict(dataset.__getitems__(range(len(dataset))))


def inspected(root: Path) -> str:
    """Check that what was converted is sound."""
    faults = [f for f in inspect_dataset(root, decode=True).faults if f.kind != "jump"]
    if faults:
        raise Wrong(f"what was converted has faults: {faults[0].message}")
    return "right"


def compare_pictures(batch: dict[str, Any], key: str, stored: list[Any]) -> None:
    """Hold the colours of a film, frame by frame, against the pixels that went in."""
    if key not in batch or any(one is None for one in stored):
        return
    wanted = []
    for one in stored:
        pixels = one[:]
        if pixels.ndim == 2:
            pixels = np.stack([np.asarray(Image.open(io.BytesIO(row.tobytes()))) for row in pixels])
        wanted.append(pixels.astype(np.float64) * (255 if pixels.dtype.kind == "f" else 1))
    colours = np.concatenate(wanted).clip(0, 255).mean(axis=(1, 2))
    got = batch[key].numpy().astype(np.float64).mean(axis=(2, 3))
    if np.abs(got - colours).max() > 14:
        raise Wrong(f"'{key}' has other colours: {got[0]} for {colours[0]}")


def check_episodic(rng: np.random.Generator, folder: Path) -> str:
    """Read the episodes and hold them against the files."""
    params = {"task_config_path": str(folder), "task_name": "task", "dataset_dir_l": str(folder / "episodes")}
    params |= {"chunk_size": 1, "robot_obs_size": 1, "img_obs_size": 1, "skip_mirrored_data": False}
    try:
        dataset = EpisodicDatasetFactory().build({}, {**params, "stereo_half": "both"})["dataset"]
        batch = dataset.__getitems__(range(len(dataset)))
    except (ParameterError, DatasetError) as problem:
        check_sentence(str(problem), folder)
        return "refused"
    files = [h5py.File(path, "r") for path in sorted((folder / "episodes").glob("*.hdf5"))]
    state = []
    for file in files:
        parts = [
            file[f"observation/{name}"][:].reshape(len(file["action/joint"]), -1)
            for name in ("pose", "counter")
        ]
        state += np.concatenate(parts, axis=1).tolist()
    compare("observation.state", batch["observation.state"].numpy(), state)
    compare("action", batch["action"].numpy(), [v for f in files for v in f["action/joint"][:].tolist()])
    compare_pictures(batch, "observation.images.head", [f.get("observation/images/head") for f in files])
    for file in files:
        file.close()
    return "right"


KINDS: dict[str, tuple[Callable[..., list[str]], Callable[..., str]]] = {
    "lerobot": (lerobot_case, check_lerobot),
    "robomimic": (robomimic_case, check_robomimic),
    "aloha": (aloha_case, check_aloha),
    "episodic": (episodic_case, check_episodic),
}


def main() -> int:
    """Run all cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--cases", type=int, default=500, help="of LeRobot; a tenth as many of each other kind"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--findings", type=Path, default=Path("fuzz_datasets_findings"))
    arguments = parser.parse_args()
    started = time.perf_counter()
    counts: collections.Counter[str] = collections.Counter()
    for kind, (write, check) in KINDS.items():
        for number in range(arguments.cases if kind == "lerobot" else arguments.cases // 10):
            rng = np.random.default_rng([arguments.seed, number, list(KINDS).index(kind)])
            with tempfile.TemporaryDirectory() as folder:
                root = Path(folder) / "case"
                root.mkdir()
                done = write(rng, root)
                try:
                    counts[f"{kind} {check(rng, root)}"] += 1
                except Exception as problem:
                    counts[f"{kind} findings"] += 1
                    kept = arguments.findings / f"{kind}_seed{arguments.seed}_case{number}"
                    shutil.copytree(root, kept, dirs_exist_ok=True)
                    (kept / "finding.txt").write_text(f"{done}\n{traceback.format_exc()}", encoding="utf-8")
                    print(f"{kept}: {done}: {type(problem).__name__}: {problem}", file=sys.stderr)
    counts["seed"] = arguments.seed
    print(json.dumps({**counts, "seconds": round(time.perf_counter() - started, 1)}))
    return int(any(count for name, count in counts.items() if name.endswith("findings")))


if __name__ == "__main__":
    sys.exit(main())
