from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.dataset_samples import FILM_FEATURES, film_episodes, write_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data import frame_memory
from trainer.data import loader as loader_module
from trainer.data.dataset import WindowedDataset
from trainer.data.errors import DatasetError
from trainer.data.frame_memory import FrameMemory
from trainer.data.lerobot import LeRobotReader
from trainer.data.lerobot.video_camera import VideoCamera
from trainer.data.loader import BatchLoader
from trainer.data.mixture import MixtureDataset, Part
from trainer.data.split import split_episodes
from trainer.data.windows import Window
from trainer.utils.shuffle import epoch_order

TOP, WRIST = "observation.images.top", "observation.images.wrist"
PER_FRAME = 3 * 32 * 48 + 3 * 24 * 16
FRAMES = 33
EVERYTHING = 2**30


class Counting:
    """A camera whose frames show their own row; counts what is decoded: all from the keyframe on."""

    key, shape = "camera", (3, 2, 2)

    def __init__(self, count: int, group: int) -> None:
        self.count, self.frames_per_keyframe = count, float(group)
        self.reads: list[np.ndarray] = []
        self.decoded = 0

    def __len__(self) -> int:
        return self.count

    def together(self, rows):
        group = int(self.frames_per_keyframe)
        found = np.unique(rows // group)[:, None] * group + np.arange(group)
        return found[found < self.count]

    def read(self, rows):
        group = int(self.frames_per_keyframe)
        self.reads.append(rows)
        last = np.full(self.count // group + 1, -1)
        np.maximum.at(last, rows // group, rows % group)
        self.decoded += int((last + 1).sum())
        return shown(rows)


def shown(rows: np.ndarray) -> np.ndarray:
    value = np.stack([rows % 251, rows // 251, rows * 0], axis=1).astype(np.uint8)
    return np.broadcast_to(value[:, :, None, None], (len(rows), 3, 2, 2)).copy()


def orders(length: int, epochs: int, seed: int = 0) -> list[np.ndarray]:
    return [epoch_order(seed, epoch, length) for epoch in range(epochs + 1)]


def run(camera: Counting, room: int, epochs: int, batch: int = 16) -> tuple[FrameMemory, list[int]]:
    """Read epochs by batches, each frame once an epoch; return how much was decoded in each."""
    memory, spent = FrameMemory(camera, room), []
    order = orders(len(camera), epochs)
    for epoch in range(epochs):
        memory.expect(np.concatenate(order[epoch : epoch + 2]))
        before = camera.decoded
        for begin in range(0, len(camera), batch):
            rows = order[epoch][begin : begin + batch]
            np.testing.assert_array_equal(memory.read(rows), shown(rows))
            assert memory.frames <= room
        spent.append(camera.decoded - before)
    return memory, spent


def test_where_all_frames_have_room_each_is_decoded_once():
    memory, spent = run(Counting(1000, 2), 1000, 3)
    assert spent == [1000, 0, 0]
    assert memory.frames == 1000


def test_half_of_the_decoding_is_spared_where_a_quarter_of_the_frames_has_room():
    """Keyframe and frame after it: 1.5 frames are decoded for a random one; with a quarter waiting, 1."""
    assert run(Counting(4000, 2), 0, 1)[1] == [pytest.approx(6000, rel=0.02)]
    assert run(Counting(4000, 2), 1000, 2)[1][0] < 4400


def test_rare_keyframes_cost_as_the_formula_says():
    """With a group of 250 frames a random frame costs 125 others; here one visit serves 1 + gh/N samples."""
    camera, room = Counting(5000, 250), 500
    _, spent = run(camera, room, 3)
    horizon = room + np.sqrt(room**2 + 2 * room * 5000 / 250)
    visits = 5000 / (1 + 250 * horizon / 5000)
    assert np.mean(spent[1:]) == pytest.approx(250 * visits, rel=0.35)
    # Whole batches at once, as many as there is room for, decode nearly everything each time.
    assert np.mean(spent) < 0.7 * 5000 / room * 5000


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 60),
    group=st.integers(1, 9),
    room=st.integers(0, 70),
    batch=st.integers(1, 20),
    seed=st.integers(0, 5),
    told=st.booleans(),
)
def test_frames_are_those_of_the_camera_whatever_is_asked(count, group, room, batch, seed, told):
    camera = Counting(count, group)
    memory = FrameMemory(camera, room)
    rng = np.random.default_rng(seed)
    expected = rng.integers(0, count, 80)
    memory.expect(expected)
    asked = expected if told else rng.integers(0, count, 80)  # it may come otherwise than was said
    for begin in range(0, len(asked), batch):
        rows = asked[begin : begin + batch]
        np.testing.assert_array_equal(memory.read(rows), shown(rows))
        assert memory.frames <= min(room, count)


def test_several_threads_read_at_once():
    camera, length = Counting(3000, 4), 3000
    memory = FrameMemory(camera, 400)
    memory.expect(np.concatenate(orders(length, 1)))
    batches = np.array_split(orders(length, 1)[0], 200)
    with ThreadPoolExecutor(4) as pool:
        for rows, found in zip(batches, pool.map(memory.read, batches), strict=True):
            np.testing.assert_array_equal(found, shown(rows))
    assert memory.frames <= 400


def test_much_is_decoded_in_pieces(monkeypatch):
    monkeypatch.setattr(frame_memory, "_BYTES_AT_ONCE", 10 * 12)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    camera = Counting(200, 50)
    _, spent = run(camera, 200, 2)
    assert max(map(len, camera.reads)) == 10
    assert spent[1] == 0


def test_a_damaged_frame_fails_where_it_is_needed_and_not_before():
    class Damaged(Counting):
        def read(self, rows):
            if 7 in rows:
                raise DatasetError("frame 7 cannot be decoded")
            return super().read(rows)

    memory = FrameMemory(Damaged(20, 10), 20)
    memory.expect(np.arange(20))
    for row in (5, 6, 8):
        np.testing.assert_array_equal(memory.read(np.array([row])), shown(np.array([row])))
    with pytest.raises(DatasetError, match="frame 7"):
        memory.read(np.array([7]))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films") / "set"
    return write_dataset(folder, film_episodes((5, 16, 3, 9)), features=FILM_FEATURES)


def opened(root, **options):
    windows = [Window(TOP, (-1, 0)), Window(WRIST, (0,)), Window("action", (0, 1))]
    return WindowedDataset(LeRobotReader(root), windows, **options)


def equal(found, expected):
    assert list(found) == list(expected)
    for key, value in expected.items():
        same = torch.equal(found[key], value) if isinstance(value, torch.Tensor) else found[key] == value
        assert same, key


@pytest.mark.parametrize("frames", [1, 7, 40])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_the_same_batches(root, workers, frames):
    options = {"batch_size": 4, "seed": 3, "num_workers": workers}
    with_memory = BatchLoader(opened(root), frame_memory=frames * PER_FRAME, **options)
    without = BatchLoader(opened(root), batch_size=4, seed=3)
    for epoch, start in ((0, 2), (1, 0), (2, 0)):
        found = list(with_memory.epoch(epoch, start))
        expected = list(without.epoch(epoch, start))
        assert len(found) == len(expected) == 8 - start
        for one, other in zip(found, expected, strict=True):
            equal(one, other)


def test_the_second_epoch_decodes_only_what_the_first_left_out(root, monkeypatch):
    decoded = []
    read = VideoCamera.read
    monkeypatch.setattr(
        VideoCamera, "read", lambda self, rows: decoded.extend([self.key] * len(rows)) or read(self, rows)
    )
    loader = BatchLoader(opened(root), batch_size=4, frame_memory=EVERYTHING)
    spent = []
    for epoch in range(3):
        for _ in loader.epoch(epoch):
            pass
        spent.append({key: decoded.count(key) for key in (TOP, WRIST)})
        decoded.clear()
    assert all(count <= FRAMES for count in spent[0].values())
    assert all(spent[0][key] + spent[1][key] + spent[2][key] <= FRAMES for key in (TOP, WRIST))
    list(BatchLoader(opened(root), batch_size=4).epoch(0))
    assert decoded.count(TOP) > FRAMES  # without memory, two frames of every sample


def test_frames_are_kept_only_for_who_says_what_comes(root, tmp_path):
    dataset = opened(root)
    dataset.__getitems__([1, 2, 3])
    BatchLoader(dataset, batch_size=4, frame_memory=EVERYTHING).sample(np.arange(4))
    assert dataset._memories.frames == {}
    cached = opened(root, frame_cache=tmp_path / "cache")
    list(BatchLoader(cached, batch_size=4, frame_memory=EVERYTHING).epoch(0))
    assert cached._memories.frames == {}
    list(BatchLoader(dataset, batch_size=4, frame_memory=0).epoch(0))
    assert dataset._memories.frames == {}
    list(BatchLoader(dataset, batch_size=4, frame_memory=EVERYTHING).epoch(0))
    assert dataset._memories.frames == {TOP: FRAMES, WRIST: FRAMES}
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy._memories.frames == {}
    equal(copy.__getitems__([4, 30]), dataset.__getitems__([4, 30]))


def test_room_is_shared_by_cameras_workers_and_datasets(root, monkeypatch):
    rooms = []

    class Told(WindowedDataset):
        def expect(self, samples, memory):
            super().expect(samples, memory)
            rooms.append(
                (len(samples), {key: memory.room for key, memory in self._memories._memories.items()})
            )

    dataset = Told(LeRobotReader(root), opened(root).windows)
    list(BatchLoader(dataset, batch_size=4, frame_memory=20 * PER_FRAME).epoch(0, 3))
    assert rooms == [(4 * (5 + 8), {TOP: 20, WRIST: 20})]
    rooms.clear()
    monkeypatch.setattr(loader_module, "get_worker_info", lambda: SimpleNamespace(id=1, num_workers=2))
    worker = BatchLoader(dataset, batch_size=4, frame_memory=20 * PER_FRAME)
    worker._host_batches[next(worker._steps.items(0, 3))]
    assert rooms == [(4 * (2 + 4), {TOP: 10, WRIST: 10})]  # every second batch of five and of eight
    rooms.clear()
    mixture = MixtureDataset([Part("a", dataset, weight=3), Part("b", dataset, weight=1)])
    mixture.expect(np.arange(66), 66 * PER_FRAME)
    assert [count for count, _ in rooms] == [33, 33]
    assert [room[TOP] for _, room in rooms] == pytest.approx([49, 17], abs=1)
    rooms.clear()
    train, _ = split_episodes(dataset, 0, episodes=[1])
    train.expect(np.array([0, 5, 16]), 5 * PER_FRAME)
    assert rooms == [(3, {TOP: 5, WRIST: 5})]
    # The samples of a subset are others in its dataset: those of episode 1 are left out.
    assert train.__getitems__([5])["index"].tolist() == [21]
