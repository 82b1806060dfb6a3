"""The catalogue of faults that datasets come with: each is refused in one sentence that says where it is."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.dataset_samples import FILM_FEATURES, edit_json, film_episodes, write_dataset

from experiment_training.components.dataloader.lerobot_data import LerobotDatasetFactory
from trainer.config.errors import ParameterError
from trainer.data.errors import DatasetError
from trainer.data.video.encoder import VideoEncoder

TOP = "observation.images.top"
INFO, DATA, EPISODES = (
    "meta/info.json",
    "data/chunk-000/file-000.parquet",
    "meta/episodes/chunk-000/file-000.parquet",
)
FILM = f"videos/{TOP}/chunk-000/file-000.mp4"
LENGTHS = (9, 4, 14)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_dataset(
        tmp_path_factory.mktemp("sound") / "set", film_episodes(LENGTHS), features=FILM_FEATURES
    )


@pytest.fixture
def root(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "set")
    return tmp_path / "set"


def opened(root):
    """Open a dataset as an experiment does, and read all of it."""
    built = LerobotDatasetFactory().build({}, {"root": str(root), "action_horizon": 2})
    return built["dataset"].__getitems__(range(len(built["dataset"])))


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def change_column(path, name, change):
    table = pq.read_table(path)
    values = np.array(table.column(name).to_pylist())
    change(values)
    column = pa.array(values.tolist(), table.column(name).type)
    pq.write_table(table.set_column(table.column_names.index(name), name, column), path)


def film(root, frames, fps=10.0, key=TOP):
    """Put another video in the place of a camera's."""
    pictures = np.concatenate([episode[key] for episode in film_episodes((frames,))])
    encoder = VideoEncoder(root / FILM, fps, *pictures.shape[1:3], "libx264")
    for picture in pictures:
        encoder.add(picture)
    encoder.close()


def assign(values, place, value):
    values[place] = value


def damage_middle(root):
    """Spoil the pictures of a film and leave its index whole."""
    content = bytearray((root / FILM).read_bytes())
    begin = content.index(b"mdat") + 4
    content[begin : begin + (len(content) - begin) // 2] = b"\xff" * ((len(content) - begin) // 2)
    (root / FILM).write_bytes(content)


def add_feature(root, name, dtype):
    edit_json(root / INFO, lambda info: info["features"].update({name: {"dtype": dtype, "shape": [2]}}))


FAULTS = {
    "truncated parquet": (
        lambda root: cut(root / DATA, 0.7),
        DATA,
        ["truncated or damaged", "the 3 episodes from 0 to 2"],
    ),
    "missing parquet": (
        lambda root: (root / DATA).unlink(),
        DATA,
        ["is missing", "the 3 episodes from 0 to 2"],
    ),
    "missing mp4": (
        lambda root: (root / FILM).unlink(),
        FILM,
        ["the video is missing", "the 3 episodes from 0 to 2"],
    ),
    "truncated mp4": (
        lambda root: cut(root / FILM, 0.5),
        FILM,
        ["truncated or damaged", "the 3 episodes from 0 to 2"],
    ),
    "mp4 without pictures": (damage_middle, FILM, ["cannot be decoded", "frame 0 of episode 0"]),
    "short mp4": (
        lambda root: film(root, 20),
        FILM,
        ["frame 7 of episode 2", "too short: it has 20 frames"],
    ),
    "wrong fps of the video": (
        lambda root: film(root, 27, fps=15),
        FILM,
        ["frame 0 of episode 0", "15 frames/s", "the dataset has 10"],
    ),
    "wrong fps of the dataset": (
        lambda root: edit_json(root / INFO, lambda info: info.update(fps=20)),
        DATA,
        ["frame 1 of episode 0 has timestamp 0.1000 s", "at 20 frames/s it should be 0.0500 s"],
    ),
    "shifted timestamps": (
        lambda root: change_column(
            root / DATA, "timestamp", lambda v: assign(v, slice(11, 13), v[11:13] + 0.03)
        ),
        DATA,
        ["frame 2 of episode 1 has timestamp 0.2300 s", "2 such frames"],
    ),
    "shifted video": (
        lambda root: change_column(
            root / EPISODES, f"videos/{TOP}/from_timestamp", lambda v: assign(v, 1, v[1] + 0.04)
        ),
        FILM,
        ["frame 0 of episode 1 is wanted at 0.9400 s"],
    ),
    "NaN": (
        lambda root: change_column(root / DATA, "action", lambda v: assign(v, (14, 0), np.nan)),
        DATA,
        ["'action' has NaN in frame 1 of episode 2"],
    ),
    "empty episode": (
        lambda root: change_column(root / EPISODES, "length", lambda v: assign(v, 1, 0)),
        "meta/episodes",
        ["episode 1 is empty"],
    ),
    "unknown dtype": (
        lambda root: add_feature(root, "observation.spectrum", "complex128"),
        "",
        ["'observation.spectrum' has dtype 'complex128', which is not known"],
    ),
    "a version from the future": (
        lambda root: edit_json(root / INFO, lambda info: info.update(codebase_version="v4.1")),
        INFO,
        ["format v4.1, which is newer"],
    ),
}


def test_the_dataset_is_sound(root):
    assert len(opened(root)["action"]) == sum(LENGTHS)


@pytest.mark.parametrize("fault", FAULTS)
def test_one_sentence_says_where(root, fault):
    damage, place, texts = FAULTS[fault]
    damage(root)
    with pytest.raises((ParameterError, DatasetError)) as caught:
        opened(root)
    message = str(caught.value)
    assert "\n" not in message
    assert str(root / place) in message
    for text in texts:
        assert text in message, message
