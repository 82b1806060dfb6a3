"""Compares what this project and lerobot make of the same datasets, bit by bit.

Run it where lerobot is installed beside torch, with this repository, `policy_constructor` and `tests` on
PYTHONPATH:

    python -m helpers.peer_lerobot [folder of a dataset that lerobot wrote]

It writes a dataset with `LeRobotWriter`, opens it with lerobot, and compares 1,000 random samples with
windows, numbers bit by bit and frames within 1/255; then the same for the given dataset. Prints one JSON
object.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from helpers.dataset_samples import moving_picture
from trainer.data.dataset import WindowedDataset
from trainer.data.lerobot import LeRobotReader, LeRobotWriter
from trainer.data.windows import Window

SAMPLES = 1000


def write_varied(root: Path) -> Path:
    """Write a dataset with all kinds of columns, two cameras, several tasks, data files and video files."""
    rng = np.random.default_rng(7)
    features = {
        "observation.state": {"dtype": "float32", "shape": [4], "names": ["a", "b", "c", "d"]},
        "observation.gripper": {"dtype": "float32", "shape": [1], "names": None},
        "observation.touch": {"dtype": "float32", "shape": [3, 2], "names": None},
        "action": {"dtype": "float32", "shape": [4], "names": None},
        "next.done": {"dtype": "bool", "shape": [1], "names": None},
        "phase": {"dtype": "int64", "shape": [1], "names": None},
        "observation.images.top": {"dtype": "video", "shape": [64, 96, 3], "names": None},
        "observation.images.wrist": {"dtype": "video", "shape": [48, 32, 3], "names": None},
    }
    with LeRobotWriter(
        root,
        fps=20,
        features=features,
        robot_type="arm",
        metadata={"seed": 7},
        data_file_mb=0.05,
        video_file_mb=0.1,
    ) as writer:
        for number in range(40):
            length = int(rng.integers(20, 90))
            columns = {
                name: rng.normal(size=(length, *entry["shape"])).astype(np.float32)
                for name, entry in features.items()
                if entry["dtype"] == "float32"
            }
            columns["next.done"] = np.arange(length)[:, None] == length - 1
            columns["phase"] = rng.integers(0, 4, (length, 1))
            columns["observation.images.top"] = moving_picture(length, 64, 96, number)
            columns["observation.images.wrist"] = moving_picture(length, 48, 32, number + 100)
            writer.add_episode(columns, f"task {number % 3}")
    return root


def without_cameras(root: Path, folder: Path) -> Path:
    """Return a view of a dataset without its cameras, for where lerobot has no decoder for them."""
    (folder / "meta").mkdir(parents=True)
    info = json.loads((root / "meta" / "info.json").read_text(encoding="utf-8"))
    info["features"] = {
        name: entry for name, entry in info["features"].items() if entry["dtype"] not in ("video", "image")
    }
    info["video_path"] = None
    (folder / "meta" / "info.json").write_text(json.dumps(info), encoding="utf-8")
    for name in ("stats.json", "tasks.parquet", "episodes"):
        (folder / "meta" / name).symlink_to(root / "meta" / name)
    (folder / "data").symlink_to(root / "data")
    return folder


def compare(root: Path, windows: dict[str, tuple[int, ...]], samples: int = SAMPLES) -> dict[str, Any]:
    """Compare random samples, half of them at the ends of episodes; raise AssertionError at a difference."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    reader = LeRobotReader(root)
    plain = [name for name in reader.numeric_features() if name not in windows]
    plain = [name for name in plain if name not in ("timestamp", "index") and not name.endswith("_index")]
    cameras = reader.camera_features()
    windows = {**dict.fromkeys(cameras, (0,)), **windows}
    ours = WindowedDataset(reader, [Window(key, offsets) for key, offsets in windows.items()], plain)
    deltas = {key: [offset / reader.fps for offset in offsets] for key, offsets in windows.items()}
    theirs = LeRobotDataset("local/peer", root=root, delta_timestamps=deltas)
    assert len(theirs) == len(ours)
    assert theirs.fps == reader.fps
    assert theirs.num_episodes == len(reader.episodes)
    rng = np.random.default_rng(0)
    ends = reader.episodes.start + reader.episodes.length - 1
    chosen = np.concatenate(
        [rng.integers(0, len(ours), samples // 2), rng.choice(ends, samples - samples // 2)]
    )
    batch = ours.__getitems__(chosen)
    compared, padded, frames, furthest = 0, 0, 0, 0.0
    for row, index in enumerate(chosen.tolist()):
        expected = theirs[index]
        assert set(expected) == set(batch), set(expected) ^ set(batch)
        for key, value in expected.items():
            if key == "task":
                assert batch[key][row] == value, (key, index)
                continue
            if key in cameras:
                distance = float((batch[key][row].float() / 255 - value).abs().max())
                assert distance <= 1 / 255 + 1e-6, (key, index, distance)
                frames, furthest = frames + 1, max(furthest, distance)
                continue
            # lerobot drops the dimension of features of shape (1,).
            mine = batch[key][row].reshape(value.shape)
            assert mine.dtype == value.dtype, (key, mine.dtype, value.dtype)
            assert torch.equal(mine, value), (key, index)
            compared += 1
            padded += int(value.any()) if key.endswith("_is_pad") else 0
    stored = theirs.meta.stats
    for key, values in reader.stats.items():
        for name, array in values.items():
            assert np.array_equal(np.asarray(stored[key][name]).reshape(array.shape), array), (key, name)
    return {
        "frames": len(ours),
        "samples": samples,
        "tensors_compared": compared,
        "windows_of_frames_compared": frames,
        "furthest_apart": furthest,
        "windows_with_padding": padded,
    }


def main() -> None:
    """Run the comparison and print what was compared with what."""
    import importlib.metadata as metadata

    names = ("lerobot", "datasets", "torch", "numpy", "pyarrow", "pandas")
    result: dict[str, Any] = {"versions": {name: metadata.version(name) for name in names}}
    with tempfile.TemporaryDirectory() as folder:
        own = write_varied(Path(folder) / "own")
        history = {"observation.state": (-1, 0), "observation.gripper": (-1, 0), "observation.touch": (-2, 0)}
        result["written here"] = compare(own, {**history, "action": tuple(range(16))})
        for given in sys.argv[1:]:
            root = Path(given).resolve()
            keys = LeRobotReader(root).numeric_features("observation.")
            windows = dict.fromkeys(keys, (-1, 0)) | {"action": tuple(range(16))}
            windows |= dict.fromkeys(LeRobotReader(root).camera_features(), (-1, 0))
            result[f"written by lerobot: {Path(given).name}"] = compare(root, windows)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
