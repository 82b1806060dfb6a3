from __future__ import annotations

import functools
import io
import json
import os
import pickle
import struct
import sys
from fractions import Fraction

import av
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import pytest
import torch
from helpers.dataset_samples import FILM_FEATURES, edit_json, film_episodes, recorded_pusht, write_dataset

from trainer.data.batch_path import BatchPath
from trainer.data.dataset import WindowedDataset
from trainer.data.errors import DatasetError
from trainer.data.inspection import inspect_dataset
from trainer.data.lerobot import LeRobotReader, video_camera
from trainer.data.lerobot.cameras import open_camera
from trainer.data.loader import BatchLoader
from trainer.data.normalization import Normalizer
from trainer.data.video import decoder
from trainer.data.video.encoder import VideoEncoder
from trainer.data.windows import Window

TOP, WRIST = "observation.images.top", "observation.images.wrist"
LENGTHS = (9, 4, 14, 6)
WINDOWS = [Window(TOP, (-2, 0)), Window(WRIST, (0,)), Window("action", (0, 1, 2))]


@pytest.fixture(params=["torchcodec", "PyAV"])
def library(request, monkeypatch):
    if request.param == "torchcodec" and decoder.backend() != "torchcodec":
        pytest.skip("torchcodec does not load here")
    monkeypatch.setattr(decoder, "backend", lambda: request.param)
    return request.param


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    episodes = film_episodes(LENGTHS)
    return write_dataset(
        tmp_path_factory.mktemp("films") / "set", episodes, features=FILM_FEATURES, video_file_mb=0.002
    )


def whole(root, key):
    reader = LeRobotReader(root)
    camera = open_camera(reader, key, np.arange(len(reader.episodes)))
    return camera, camera.read(np.arange(len(camera)))


def recorded(key):
    return np.concatenate([episode[key] for episode in film_episodes(LENGTHS)]).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("key", [TOP, WRIST])
def test_every_frame_is_the_one_that_was_recorded(root, library, key):
    camera, frames = whole(root, key)
    assert len(camera.sources()) > 1  # the files rolled over
    assert frames.dtype == np.uint8
    assert frames.shape == (33, *camera.shape)
    distance = np.abs(frames[:, None].astype(int) - recorded(key)[None].astype(int)).mean(axis=(2, 3, 4))
    assert (distance.argmin(axis=1) == np.arange(33)).all()
    assert distance.diagonal().max() < 12


def test_rows_come_in_any_order_and_repeat(root, library):
    camera, frames = whole(root, TOP)
    rows = np.random.default_rng(0).integers(0, 33, 60)
    np.testing.assert_array_equal(camera.read(rows), frames[rows])
    assert camera.read(rows[:0]).shape == (0, *camera.shape)


def test_rare_keyframes(tmp_path, library):
    frames = np.concatenate([e[TOP] for e in film_episodes((50,))])
    encoder = VideoEncoder(tmp_path / "film.mp4", 10, 32, 48, "libx264", {"g": "20"})
    for frame in frames:
        encoder.add(frame)
    encoder.close()
    wanted = [3, 19, 21, 22, 45]
    opened = decoder.open_decoder(tmp_path / "film.mp4", 10)
    for numbers in (wanted, [0], [49], wanted):
        found, times = opened.frames(numbers)
        np.testing.assert_allclose(times, np.array(numbers) / 10)
        assert np.abs(found.astype(int) - frames[numbers]).mean() < 12
    with pytest.raises(decoder.DECODE_ERRORS):
        opened.frames([50])


def test_both_libraries_decode_alike(root, monkeypatch):
    if decoder.backend() != "torchcodec":
        pytest.skip("torchcodec does not load here")
    found = {}
    for name in ("torchcodec", "PyAV"):
        monkeypatch.setattr(decoder, "backend", lambda name=name: name)
        found[name] = whole(root, TOP)[1]
    np.testing.assert_array_equal(found["torchcodec"], found["PyAV"])


def test_frames_in_a_batch(root):
    dataset = WindowedDataset(LeRobotReader(root), WINDOWS)
    rows = [0, 5, 10, 32, 5]
    batch = dataset.__getitems__(rows)
    top, wrist = whole(root, TOP)[1], whole(root, WRIST)[1]
    assert batch[TOP].shape == (5, 2, 3, 32, 48)
    assert batch[WRIST].shape == (5, 3, 24, 16)
    assert batch[WRIST].dtype == torch.uint8
    np.testing.assert_array_equal(batch[TOP], top[[[0, 0], [3, 5], [9, 10], [30, 32], [3, 5]]])
    np.testing.assert_array_equal(batch[WRIST], wrist[rows])
    assert batch[f"{TOP}_is_pad"][:, 0].tolist() == [True, False, True, False, False]
    assert not batch[f"{TOP}_is_pad"][:, 1].any()
    assert batch[f"{WRIST}_is_pad"].shape == (5, 1)
    assert dataset.image_keys == (TOP, WRIST)
    json.dumps(dataset.facts())
    sample = dataset[10]
    assert torch.equal(sample[TOP], batch[TOP][2])


def test_frames_of_chosen_episodes(root):
    every = WindowedDataset(LeRobotReader(root), WINDOWS)
    some = WindowedDataset(LeRobotReader(root), WINDOWS, episodes=[3, 1])
    batch = some.__getitems__(range(len(some)))
    expected = every.__getitems__(batch["index"])
    assert torch.equal(batch[TOP], expected[TOP])


def test_a_dataset_is_pickled_without_its_open_files(root):
    dataset = WindowedDataset(LeRobotReader(root), WINDOWS)
    expected = dataset.__getitems__([3, 20])
    assert torch.equal(pickle.loads(pickle.dumps(dataset)).__getitems__([3, 20])[TOP], expected[TOP])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
@pytest.mark.parametrize("workers", [0, 2])
def test_loader_scales_frames_on_the_device(root, workers):
    dataset = WindowedDataset(LeRobotReader(root), WINDOWS)
    dataset.__getitems__([0])  # so that files are open when workers are forked
    normalizer = Normalizer(dataset.statistics(["action"]))
    options = {"batch_size": 4, "path": BatchPath(normalizer), "num_workers": workers, "seed": 1}
    seen = 0
    for batch in BatchLoader(dataset, **options).epoch(0):
        assert batch[TOP].dtype == torch.float32
        expected = dataset.__getitems__(batch["index"])
        assert torch.equal(batch[TOP], expected[TOP].float() / 255)
        assert torch.equal(batch[WRIST], expected[WRIST].float() / 255)
        seen += 1
    assert seen == 8


@pytest.mark.parametrize(("every", "between"), [(6, "3"), (6, "0"), (2, "0")])
def test_frames_of_one_keyframe_are_known_to_come_together(tmp_path, every, between):
    """Also where frames between others are decoded after them (`bf`)."""
    how = {"g": str(every), "bf": between, "sc_threshold": "0"}
    options = {"video_encoder": "libx264", "video_options": how}
    root = write_dataset(tmp_path / "set", film_episodes(LENGTHS), features=FILM_FEATURES, **options)
    reader = LeRobotReader(root)
    for positions in (np.arange(4), np.array([1, 3])):
        camera = open_camera(reader, TOP, positions)
        groups = [(file, number // every) for file, number in camera.identity().tolist()]
        rows = range(len(camera))
        for chosen in ([0], [len(camera) - 1], [1, 7, 2], list(rows)):
            expected = [row for row in rows if groups[row] in {groups[one] for one in chosen}]
            assert sorted(camera.together(np.array(chosen)).tolist()) == expected


def test_where_keyframes_are_is_read_with_the_header_of_a_later_file(root, monkeypatch):
    reader = LeRobotReader(root)
    expected = open_camera(reader, TOP, np.arange(4)).together(np.array([0, 32]))
    monkeypatch.setattr(video_camera, "CHECKED_AT_OPEN", 1)
    late = open_camera(reader, TOP, np.arange(4))
    assert not late._checked.all()
    np.testing.assert_array_equal(late.together(np.array([0, 32])), expected)


def test_a_dataset_of_format_2_1(root, tmp_path):
    old = tmp_path / "old"
    reader = LeRobotReader(root)
    for number, episode in enumerate(film_episodes(LENGTHS)):
        data = old / f"data/chunk-000/episode_{number:06d}.parquet"
        data.parent.mkdir(parents=True, exist_ok=True)
        rows = np.flatnonzero(np.repeat(np.arange(4), LENGTHS) == number)
        pq.write_table(pq.read_table(reader.episodes.files[0].path).take(rows), data)
        for key in (TOP, WRIST):
            film = old / f"videos/chunk-000/{key}/episode_{number:06d}.mp4"
            film.parent.mkdir(parents=True, exist_ok=True)
            encoder = VideoEncoder(film, 10, *episode[key].shape[1:3], "libx264")
            for frame in episode[key]:
                encoder.add(frame)
            encoder.close()
    (old / "meta").mkdir()
    info = reader.info.raw | {
        "codebase_version": "v2.1",
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    (old / "meta/info.json").write_text(json.dumps(info))
    lines = [{"episode_index": i, "length": n, "tasks": [f"task {i % 2}"]} for i, n in enumerate(LENGTHS)]
    (old / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, lines)))
    tasks = [{"task_index": i, "task": f"task {i}"} for i in range(2)]
    (old / "meta/tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)))
    camera, frames = whole(old, TOP)
    assert len(camera.sources()) == 4
    distance = np.abs(frames[:, None].astype(int) - recorded(TOP)[None].astype(int)).mean(axis=(2, 3, 4))
    assert (distance.argmin(axis=1) == np.arange(33)).all()


@pytest.mark.parametrize("order", ["HWC", "CHW"])
def test_pictures_in_the_data_files(root, tmp_path, order):
    reader = LeRobotReader(root)
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (33, 6, 10, 3), np.uint8)
    cells = []
    (tmp_path / "kept.png").parent.mkdir(exist_ok=True)
    target = tmp_path / "set"
    for folder in ("meta/episodes/chunk-000", "data/chunk-000"):
        (target / folder).mkdir(parents=True)
    for i, picture in enumerate(pictures):
        stored = io.BytesIO()
        PIL.Image.fromarray(picture).save(stored, "PNG")
        if i == 7:  # one of them lies beside the data
            (target / "seven.png").write_bytes(stored.getvalue())
        cells.append(
            {"bytes": None if i == 7 else stored.getvalue(), "path": "seven.png" if i == 7 else None}
        )
    table = pq.read_table(reader.episodes.files[0].path)
    table = table.append_column("observation.image", pa.array(cells))
    pq.write_table(table, target / "data/chunk-000/file-000.parquet", row_group_size=5)
    for name in ("meta/tasks.parquet", "meta/episodes/chunk-000/file-000.parquet"):
        (target / name).write_bytes((root / name).read_bytes())
    shape, names = ([6, 10, 3], ["height", "width", "channel"]) if order == "HWC" else ([3, 6, 10], None)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["observation.image"] = {"dtype": "image", "shape": shape, "names": names}
    (target / "meta/info.json").write_text(json.dumps(info))
    dataset = WindowedDataset(LeRobotReader(target), [Window("observation.image", (-1, 0))], episodes=[1, 2])
    batch = dataset.__getitems__([0, 6, 17, 6])
    np.testing.assert_array_equal(
        batch["observation.image"].numpy().transpose(0, 1, 3, 4, 2),
        pictures[[[9, 9], [14, 15], [25, 26], [14, 15]]],
    )


def test_recorded_demonstrations_decode_in_any_order():
    root = recorded_pusht()
    reader = LeRobotReader(root)
    dataset = WindowedDataset(reader, [Window("observation.image", (-1, 0))], episodes=[0, 100, 205])
    batch = dataset.__getitems__(np.random.default_rng(0).integers(0, len(dataset), 40))
    opened = decoder.open_decoder(dataset._cameras["observation.image"].sources()[0], reader.fps, "PyAV")
    for i, index in enumerate(batch["index"].tolist()):
        first = index - int(batch["frame_index"][i])
        for place, number in enumerate((max(index - 1, first), index)):
            expected = opened.frames([number])[0][0]
            found = batch["observation.image"][i, place].permute(1, 2, 0).numpy()
            assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"dtype": "video", "shape": [32, 48, 1], "names": None}, "1-channel frames; colour frames are read"),
        (
            {"dtype": "video", "shape": [32, 48, 3], "names": None, "info": {"video.is_depth_map": True}},
            "depth",
        ),
        ({"dtype": "video", "shape": [32, 48], "names": None}, "not height, width, channels"),
        (
            {"dtype": "video", "shape": [32, 64, 3], "names": None},
            "are 32 × 48 pixels, the dataset says 32 × 64",
        ),
        (
            {"dtype": "image", "shape": [32, 48, 3], "names": None},
            "column 'observation.images.top' is missing",
        ),
    ],
)
def test_cameras_that_cannot_be_read(root, tmp_path, entry, text):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("data", "videos"):
        (copy / name).symlink_to(root / name)
    (copy / "meta").mkdir()
    for name in ("episodes", "tasks.parquet", "info.json"):
        if name == "info.json":
            (copy / "meta" / name).write_text((root / "meta" / name).read_text())
        else:
            (copy / "meta" / name).symlink_to(root / "meta" / name)
    edit_json(copy / "meta/info.json", lambda info: info["features"].update({TOP: entry}))
    with pytest.raises(DatasetError, match=text) as caught:
        WindowedDataset(LeRobotReader(copy), WINDOWS)
    assert str(caught.value).startswith(str(copy))


def test_the_slower_library_is_announced_once(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    fresh = functools.cache(decoder.backend.__wrapped__)
    assert [fresh(), fresh()] == ["PyAV", "PyAV"]
    [record] = caplog.records
    assert "videos are decoded by PyAV" in record.getMessage()
    assert "pip install 'torchcodec<0.14'" in record.getMessage()


FILMED = (40, 21)


def filmed(tmp_path, *, fps=10, lengths=FILMED, times=None, name="film.mp4", codec="libx264", options=None):
    """Write a dataset whose film is encoded here: root, path of the film, and its frames (N, H, W, 3)."""
    features = {key: FILM_FEATURES[key] for key in ("observation.state", "action", TOP)}
    episodes = [{key: one[key] for key in features} for one in film_episodes(lengths)]
    root = write_dataset(tmp_path / "set", episodes, features=features, fps=10)
    if fps != 10:
        edit_json(root / "meta/info.json", lambda info: info.update(fps=fps))
        change_times(root, fps)
    frames = np.concatenate([one[TOP] for one in episodes]).repeat(2, axis=1).repeat(2, axis=2)
    edit_json(root / "meta/info.json", lambda info: info["features"][TOP].update(shape=[64, 96, 3]))
    stamps = [Fraction(n) / Fraction(fps) for n in range(len(frames))] if times is None else times
    [film] = root.rglob("*.mp4")
    made = tmp_path / name
    with av.open(str(made), "w") as container:
        stream = container.add_stream(
            codec, rate=Fraction(fps).limit_denominator(1001), options=options or {"g": "6"}
        )
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 90_000)
        for frame, time in zip(frames, stamps, strict=False):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = round(time * 90_000), Fraction(1, 90_000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    film.write_bytes(made.read_bytes())
    return root, film, frames


def change_times(root, fps):
    """Give rows and spans the times of another rate."""
    for path in [*root.glob("data/*/*.parquet"), *root.glob("meta/episodes/*/*.parquet")]:
        table = pq.read_table(path)
        for name in table.column_names:
            if name == "timestamp" or (name.startswith("videos/") and name.endswith("_timestamp")):
                values = table.column(name).to_numpy() * 10 / fps
                place = table.column_names.index(name)
                table = table.set_column(
                    place, name, pa.array(values.astype(table.schema.field(name).type.to_pandas_dtype()))
                )
        pq.write_table(table, path)


def shown(root, rows=None):
    """Return what the rows of the camera show, `(K, H, W, 3)`, read in random order and one by one."""
    camera = open_camera(LeRobotReader(root), TOP, np.arange(2))
    rows = np.random.default_rng(1).permutation(len(camera)) if rows is None else np.asarray(rows)
    found = np.concatenate([camera.read(rows[i : i + 3]) for i in range(0, len(rows), 3)])
    return found[np.argsort(rows)].transpose(0, 2, 3, 1)


def assert_shows(found, frames):
    distance = np.abs(found[:, None].astype(int) - frames[None].astype(int)).mean(axis=(2, 3, 4))
    assert (distance.argmin(axis=1) == np.arange(len(frames))).all()


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx265", {"g": "6", "x265-params": "log-level=none"}),
        ("libx264", {"g": "12", "x264-params": "open-gop=1:bframes=3:b-adapt=0"}),
    ],
)
def test_frames_shown_before_the_keyframe_that_they_follow(tmp_path, library, codec, options):
    root, _, frames = filmed(tmp_path, codec=codec, options=options)
    assert_shows(shown(root), frames)
    assert not inspect_dataset(root, decode=True).faults


@pytest.mark.parametrize(
    ("fps", "film_fps"), [(30, 30), (29.97, Fraction(30000, 1001)), (59.94, Fraction(60000, 1001))]
)
def test_times_may_be_rounded(tmp_path, library, fps, film_fps):
    """Matroska keeps milliseconds, and 29.97 is not quite the rate that is called so."""
    times = [n / film_fps for n in range(sum(FILMED))]
    root, _, frames = filmed(tmp_path, fps=fps, times=times, name="film.mkv")
    assert_shows(shown(root), frames)
    assert not inspect_dataset(root, decode=True).faults


def uneven():
    """Frames of 10 a second, from the 30th on each a third of a frame late."""
    return [Fraction(n, 10) + (Fraction(1, 30) if n >= 30 else 0) for n in range(sum(FILMED))]


def doubled():
    """From the 30th on twice as many frames a second."""
    return [Fraction(min(n, 30), 10) + Fraction(max(n - 30, 0), 20) for n in range(sum(FILMED))]


@pytest.mark.parametrize(
    ("times", "sentence"),
    [
        (uneven, "frame 30 of episode 0 should be shown at 3.0000 s, the video has a frame at 3.033"),
        (doubled, "the video has 13.3333 frames/s, the dataset has 10"),
        (
            lambda: [Fraction(n, 20) for n in range(sum(FILMED))],
            "the video has (20|19.6774) frames/s, the dataset has 10",
        ),
        (lambda: [Fraction(n, 10) for n in range(50)], "frame 10 of episode 1 is frame 50 .* 50 frames"),
    ],
)
@pytest.mark.parametrize("name", ["film.mp4", "film.mkv"])
def test_films_without_the_frames_are_refused_when_they_are_opened(tmp_path, times, sentence, name):
    root, _, _ = filmed(tmp_path, times=times(), name=name)
    with pytest.raises(DatasetError, match=sentence):
        open_camera(LeRobotReader(root), TOP, np.arange(2))
    assert {f.kind for f in inspect_dataset(root).faults} <= {"video_frames", "video_fps"}
    assert inspect_dataset(root).faults


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_film_is_shown_upright(tmp_path, library, quarters):
    root, film, frames = filmed(tmp_path)
    raw = bytearray(film.read_bytes())
    cosine, sine = [(0, 65536), (-65536, 0), (0, -65536)][quarters - 1]
    at = raw.find(b"tkhd") + 44  # the matrix of the track header
    raw[at : at + 36] = struct.pack(">9i", cosine, sine, 0, -sine, cosine, 0, 0, 0, 1 << 30)
    film.write_bytes(raw)
    upright = np.rot90(frames, -quarters, (1, 2))  # the matrix turns clockwise
    if quarters != 2:
        with pytest.raises(DatasetError, match="are 96 × 64 pixels, the dataset says 64 × 96"):
            open_camera(LeRobotReader(root), TOP, np.arange(2))
        assert [f.kind for f in inspect_dataset(root).faults] == ["video_size"]
        edit_json(root / "meta/info.json", lambda info: info["features"][TOP].update(shape=[96, 64, 3]))
    assert_shows(shown(root), upright)
    assert not inspect_dataset(root).faults


def test_episodes_on_the_same_frames_are_refused(tmp_path):
    root, _, _ = filmed(tmp_path)
    [path] = root.glob("meta/episodes/*/*.parquet")
    table = pq.read_table(path)
    for end in ("from", "to"):
        name = f"videos/{TOP}/{end}_timestamp"
        values = table.column(name).to_numpy() - [0, 0.1]
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    pq.write_table(table, path)
    for chosen in ([0, 1], [1]):
        with pytest.raises(DatasetError, match=r"episodes 0 and 1 lie on the same frames of file-000\.mp4"):
            WindowedDataset(LeRobotReader(root), WINDOWS[:1], episodes=chosen)
    [fault] = inspect_dataset(root).faults
    assert fault.kind == "video_overlap"
    assert tuple(fault.episodes) == (0, 1)


def test_episodes_that_name_the_same_film_are_refused(tmp_path):
    """Older datasets have a film per episode, whose name must tell the episodes apart."""
    root, film, _ = filmed(tmp_path)
    (root / "one.mp4").write_bytes(film.read_bytes())
    table = pq.read_table(next(root.glob("meta/episodes/*/*.parquet")))
    lines = [
        {"episode_index": e, "tasks": t, "length": n}
        for e, t, n in zip(
            *(table.column(c).to_pylist() for c in ("episode_index", "tasks", "length")), strict=True
        )
    ]
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (root / "meta/tasks.jsonl").write_text(
        "".join(json.dumps({"task_index": i, "task": f"task {i}"}) + "\n" for i in range(2))
    )
    rows = pq.read_table(next(root.glob("data/*/*.parquet")))
    for e in range(2):
        pq.write_table(rows.filter(pa.compute.equal(rows["episode_index"], e)), root / f"episode_{e}.parquet")
    edit_json(
        root / "meta/info.json",
        lambda info: info.update(
            codebase_version="v2.1", data_path="episode_{episode_index}.parquet", video_path="one.mp4"
        ),
    )
    with pytest.raises(DatasetError, match=r"episodes 0 and 1 lie on the same frames of one\.mp4"):
        open_camera(LeRobotReader(root), TOP, np.arange(2))
