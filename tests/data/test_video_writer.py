from __future__ import annotations

import contextlib
import json
import os

import av
import numpy as np
import pytest
from helpers.dataset_samples import FILM_FEATURES, film_episodes, moving_picture, write_dataset

from trainer.data.errors import DatasetError
from trainer.data.lerobot import LeRobotReader, LeRobotWriter
from trainer.data.video import encoder
from trainer.data.video.header import read_header
from trainer.data.video.statistics import FrameStatistics

TOP, WRIST = "observation.images.top", "observation.images.wrist"
LENGTHS = (9, 4, 14, 6)


def test_what_a_dataset_says_of_its_videos(tmp_path):
    root = write_dataset(
        tmp_path / "set", film_episodes(LENGTHS), features=FILM_FEATURES, video_file_mb=0.0005, fps=20
    )
    info = json.loads((root / "meta/info.json").read_text())
    assert info["features"][TOP] == {
        "dtype": "video",
        "shape": [32, 48, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": 32,
            "video.width": 48,
            "video.codec": "h264",
            "video.pix_fmt": "yuv420p",
            "video.is_depth_map": False,
            "video.fps": 20,
            "video.channels": 3,
            "has_audio": False,
        },
    }
    assert info["video_path"] == "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    columns = LeRobotReader(root).episodes.columns
    begins, ends = (columns[f"videos/{TOP}/{name}_timestamp"] for name in ("from", "to"))
    files = columns[f"videos/{TOP}/file_index"]
    assert len(set(files.tolist())) > 1
    np.testing.assert_allclose(ends - begins, np.array(LENGTHS) / 20)
    for file in set(files.tolist()):
        inside = files == file
        assert begins[inside][0] == 0
        np.testing.assert_allclose(begins[inside][1:], ends[inside][:-1])
        header = read_header(root / f"videos/{TOP}/chunk-000/file-{file:03d}.mp4")
        assert header.frames == sum(np.array(LENGTHS)[inside])
        assert header.frames_per_keyframe <= 2
        assert header.fps == 20


def test_statistics_of_frames_are_exact(tmp_path):
    episodes = film_episodes(LENGTHS)
    root = write_dataset(tmp_path / "set", episodes, features=FILM_FEATURES)
    found = LeRobotReader(root).stats[WRIST]
    values = np.concatenate([e[WRIST] for e in episodes]).reshape(-1, 3) / 255
    expected = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
    expected |= {f"q{q:02d}": np.quantile(values, q / 100, axis=0) for q in (1, 10, 50, 90, 99)}
    for name, value in expected.items():
        assert found[name].shape == (3, 1, 1)
        np.testing.assert_allclose(found[name].ravel(), value, atol=1e-12)
    assert found["count"] == [33]


def test_large_frames_are_sampled_for_statistics():
    frame = moving_picture(1, 480, 640, seed=0)[0]
    counted = FrameStatistics()
    counted.add(frame)
    np.testing.assert_allclose(counted.result()["mean"].ravel(), frame.mean(axis=(0, 1)) / 255, atol=0.01)


def test_frames_come_one_at_a_time(tmp_path):
    class Lazy:
        """Makes each frame when it is asked for."""

        def __len__(self):
            return 5

        def __getitem__(self, index):
            return np.full((32, 48, 3), 40 * index, np.uint8)

    features = {TOP: FILM_FEATURES[TOP], "action": FILM_FEATURES["action"]}
    with LeRobotWriter(tmp_path / "set", fps=10, features=features, video_encoder="libx264") as writer:
        writer.add_episode({TOP: Lazy(), "action": np.zeros((5, 2), np.float32)}, "look")
    with av.open(str(tmp_path / f"set/videos/{TOP}/chunk-000/file-000.mp4")) as film:
        means = [frame.to_ndarray(format="rgb24").mean() for frame in film.decode(video=0)]
    np.testing.assert_allclose(means, [0, 40, 80, 120, 160], atol=3)


def test_equal_input_gives_equal_bytes(tmp_path):
    roots = [
        write_dataset(tmp_path / name, film_episodes(LENGTHS), features=FILM_FEATURES) for name in ("a", "b")
    ]
    files = [sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file()) for root in roots]
    assert files[0] == files[1]
    for path in files[0]:
        assert (roots[0] / path).read_bytes() == (roots[1] / path).read_bytes(), path


def test_the_best_encoder_there_is(monkeypatch):
    monkeypatch.setattr(encoder.av, "codecs_available", {"libsvtav1", "libx264"})
    assert encoder.choose_encoder(96, 96) == "libsvtav1"
    assert encoder.choose_encoder(48, 96) == "libx264"
    monkeypatch.setattr(encoder.av, "codecs_available", {"libx264"})
    assert encoder.choose_encoder(96, 96) == "libx264"
    monkeypatch.setattr(encoder.av, "codecs_available", set())
    with pytest.raises(RuntimeError, match="neither libsvtav1 nor libx264"):
        encoder.choose_encoder(96, 96)


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ([3, 32, 48], r"camera 'cam' has shape \[3, 32, 48\], it should be height, width, 3"),
        ([33, 48, 3], "the frames of 'cam' are 33 × 48 pixels; a video needs even numbers"),
    ],
)
def test_cameras_that_cannot_be_written(tmp_path, shape, text):
    with pytest.raises(DatasetError, match=text):
        LeRobotWriter(tmp_path / "set", fps=10, features={"cam": {"dtype": "video", "shape": shape}})


def test_frames_that_do_not_fit(tmp_path):
    features = {TOP: FILM_FEATURES[TOP], "action": FILM_FEATURES["action"]}
    action, good = np.zeros((3, 2), np.float32), np.zeros((3, 32, 48, 3), np.uint8)
    small = [good[0], np.zeros((9, 9, 3), np.uint8), good[0]]

    def write():
        with LeRobotWriter(tmp_path / "set", fps=10, features=features) as writer:
            writer.add_episode({TOP: good, "action": action}, "look")
            with pytest.raises(DatasetError, match="the lengths of the columns disagree"):
                writer.add_episode({TOP: good[:2], "action": action}, "look")
            writer.add_episode({TOP: good, "action": action}, "look")  # nothing is left of the one before
            with pytest.raises(DatasetError, match=r"episode 2: frame 1 of '.*top' is uint8 \(9, 9, 3\)"):
                writer.add_episode({TOP: small, "action": action}, "look")
            with pytest.raises(DatasetError, match="the episode before failed half-way"):
                writer.add_episode({TOP: good, "action": action}, "look")

    with pytest.raises(DatasetError, match="the dataset is lost"):
        write()
    assert not (tmp_path / "set").exists()


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="Linux alone tells it")
def test_no_thread_becomes_a_real_time_one(tmp_path):
    def schedulers():  # by thread. Those of a simulator that drew in this process before are batch ones
        found = {}
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(ProcessLookupError):
                found[thread] = os.sched_getscheduler(int(thread))
        return found

    before = schedulers()
    film = encoder.VideoEncoder(tmp_path / "film.mp4", 10, 96, 96, encoder.choose_encoder(96, 96))
    for _ in range(3):
        film.add(np.zeros((96, 96, 3), np.uint8))
    after = schedulers()
    film.close()
    assert after.keys() - before.keys(), "the encoder has begun no thread"
    assert {after[thread] for thread in after.keys() - before.keys()} == {os.SCHED_OTHER}
    assert all(after[thread] == before[thread] for thread in after.keys() & before.keys())
