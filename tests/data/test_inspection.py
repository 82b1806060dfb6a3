"""The catalogue: datasets with one planted fault each, every one of which has to be found and named."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from helpers.dataset_samples import recorded_pusht
from helpers.inspection_samples import (
    CAMERA,
    DATA,
    EPISODES,
    FPS,
    LENGTHS,
    VIDEO,
    as_v21,
    change_column,
    change_info,
    change_json,
    change_table,
    healthy,
    with_video,
    write_film,
)

from trainer.cli import main
from trainer.data.inspection import inspect_dataset
from trainer.data.lerobot import LeRobotWriter
from trainer.pages.dataset.page import write_page

START = np.cumsum(LENGTHS) - np.array(LENGTHS)
TOTAL = sum(LENGTHS)


def set_at(row, value):
    def change(values):
        values[row] = value

    return change


def nan(root):
    change_column(root, "observation.state", set_at((START[1] + 7, 1), np.nan))


def infinite(root):
    change_column(root, "action", set_at((START[2] + 3, 0), -np.inf))


def constant(root):
    change_column(root, "action", set_at((slice(None), 1), 0.25))


def jump(root):
    change_column(root, "observation.state", set_at((START[3] + 20, 0), 30.0))


def duplicate_time(root):
    change_column(root, "timestamp", lambda t: set_at(START[1] + 5, t[START[1] + 4])(t))


def backward_time(root):
    change_column(root, "timestamp", set_at(START[1] + 5, 0.05))


def shifted_time(root):
    change_column(
        root, "timestamp", lambda t: np.concatenate([t[: START[2]], t[START[2] :] + 0.03]).astype("f4")
    )


def nan_time(root):
    change_column(root, "timestamp", set_at(START[2], np.nan))


def wrong_fps(root):
    change_info(root, lambda info: info.update(fps=30))


def frame_numbers(root):
    change_column(root, "frame_index", set_at(START[1] + 5, 99))


def wrong_index(root):
    change_column(root, "index", set_at(START[1] + 5, 3))


def wrong_episode(root):
    change_column(root, "episode_index", set_at(START[1] + 5, 3))


def stray_episode(root):
    change_column(root, "episode_index", set_at(slice(START[3], None), 8))


def missing_rows(root):
    change_table(root / DATA, lambda table: table.slice(0, TOTAL - 4))


def truncated_data(root):
    content = (root / DATA).read_bytes()
    (root / DATA).write_bytes(content[: len(content) // 2])


def missing_data(root):
    (root / DATA).unlink()


def missing_column(root):
    change_table(root / DATA, lambda table: table.drop_columns(["action"]))


def null_values(root):
    def change(table):
        column = table.column("observation.gripper").to_pylist()
        column[4] = None
        place = table.column_names.index("observation.gripper")
        return table.set_column(place, "observation.gripper", pa.array(column, pa.float32()))

    change_table(root / DATA, change)


def task_index(root):
    change_column(root, "task_index", set_at(START[1], 7))


def empty_task(root):
    path = root / "meta/tasks.parquet"
    change_table(path, lambda t: t.set_column(t.column_names.index("task"), "task", pa.array([" ", "b"])))


def stale_stats(root):
    change_json(root / "meta/stats.json", lambda stats: stats["action"]["mean"].__setitem__(0, 12.0))


def damaged_stats(root):
    (root / "meta/stats.json").write_text("[1, 2")


def unknown_dtype(root):
    change_info(root, lambda info: info["features"]["next.done"].update(dtype="quaternion"))


def future_version(root):
    change_info(root, lambda info: info.update(codebase_version="v9.0"))


def empty_episode(root):
    change_table(
        root / EPISODES,
        lambda t: t.set_column(t.column_names.index("length"), "length", pa.array([40, 0, 50, 45])),
    )


def short_film(root):
    write_film(root / VIDEO, range(TOTAL - 12))


def holes_in_film(root):
    write_film(root / VIDEO, [i for i in range(TOTAL) if i not in (START[1] + 3, START[2] + 9)])


def film_of_other_rate(root):
    write_film(root / VIDEO, range(TOTAL), fps=25)


def film_of_other_size(root):
    write_film(root / VIDEO, range(TOTAL), size=(48, 48))


def missing_film(root):
    (root / VIDEO).unlink()


def truncated_film(root):
    content = (root / VIDEO).read_bytes()
    (root / VIDEO).write_bytes(content[: len(content) // 2])


def misplaced_film(root):
    name = f"videos/{CAMERA}/from_timestamp"

    def change(table):
        values = table.column(name).to_numpy().copy()
        values[2] += 0.03
        return table.set_column(table.column_names.index(name), name, pa.array(values))

    change_table(root / EPISODES, change)


def shorter_span(root):
    name = f"videos/{CAMERA}/to_timestamp"

    def change(table):
        values = table.column(name).to_numpy().copy()
        values[3] -= 1.0
        return table.set_column(table.column_names.index(name), name, pa.array(values))

    change_table(root / EPISODES, change)


NUMBERS = [
    # damage, kind of finding, episodes in which it is, what the sentence names
    (nan, "nan", (1,), "'observation.state' has NaN in frame 7 of episode 1"),
    (infinite, "infinite", (2,), "'action' has an infinite number in frame 3 of episode 2"),
    (duplicate_time, "timestamp_duplicate", (1,), "frame 5 of episode 1"),
    (backward_time, "timestamp_backwards", (1,), "frame 5 of episode 1"),
    (shifted_time, "timestamp_sync", (2, 3), "95 frames of 2 episodes, first in frame 0 of episode 2"),
    (nan_time, "timestamp", (2,), "frame 0 of episode 2"),
    (wrong_fps, "fps", (), "those of 10 frames/s, info.json says 30"),
    (frame_numbers, "frame_index", (1,), "frame 5 of episode 1"),
    (wrong_index, "index", (1,), "frame 5 of episode 1"),
    (wrong_episode, "episode_rows", (1, 3), "episode 1 has 59 rows in the data files, .* says 60"),
    (stray_episode, "episode_rows", (), "rows of episode 8, which is not listed"),
    (missing_rows, "episode_rows", (3,), "episode 3 has 41 rows in the data files, .* says 45"),
    (truncated_data, "data_file", (0, 1, 2, 3), "file-000.parquet: the file is truncated or damaged"),
    (missing_data, "data_file", (0, 1, 2, 3), "file-000.parquet: the file is missing"),
    (missing_column, "column", (), "file-000.parquet: the column 'action' is missing"),
    (null_values, "column", (), "'observation.gripper' has rows without a value"),
    (task_index, "task_index", (1,), "goes beyond the 2 tasks in frame 0 of episode 1"),
    (empty_task, "task_text", (), "task 0 has no text"),
    (stale_stats, "stats", (), "of 'action', mean is 12, the data says .*trainer data stats --write"),
    (damaged_stats, "stats", (), "stats.json: these are not statistics"),
    (unknown_dtype, "dtype", (), "'next.done' has dtype 'quaternion', which is not known"),
    (future_version, "metadata", (), "info.json: the dataset has format v9.0, which is newer"),
    (empty_episode, "metadata", (), "episode 1 is empty"),
]
FILMS = [
    (short_film, "video_frames", (3,), "12 frames of 1 episode .* first frame 33 of episode 3"),
    (holes_in_film, "video_frames", (1, 2), "2 frames of 2 episodes .* first frame 3 of episode 1"),
    (film_of_other_rate, "video_fps", (0, 1, 2, 3), "the video has 25 frames/s, the dataset says 10"),
    (film_of_other_size, "video_size", (0, 1, 2, 3), "48 × 48 pixels, the dataset says 32 × 48"),
    (missing_film, "video_file", (0, 1, 2, 3), "file-000.mp4: the video is missing"),
    (truncated_film, "video_file", (0, 1, 2, 3), "file-000.mp4: the video is truncated or damaged"),
    (misplaced_film, "video_frames", (2,), "50 frames of 1 episode"),
    (shorter_span, "video_span", (3,), "gives episode 3 3.500 s of the video"),
]


def catalogue(entries):
    return pytest.mark.parametrize(
        ("damage", "kind", "episodes", "sentence"), entries, ids=[entry[0].__name__ for entry in entries]
    )


def check(root, kind, episodes, sentence):
    inspection = inspect_dataset(root)
    found = [finding for finding in inspection.faults if finding.kind == kind]
    named = [finding for finding in found if re.search(sentence, finding.message)]
    assert named, [f"{f.kind}: {f.message}" for f in inspection.findings]
    assert named[0].episodes == episodes
    return inspection


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return healthy(tmp_path_factory.mktemp("sound") / "sound")


def test_nothing_is_wrong_with_a_sound_dataset(sound, tmp_path):
    assert inspect_dataset(sound).findings == ()
    filmed = with_video(healthy(tmp_path / "filmed"))
    assert inspect_dataset(filmed, decode=True).findings == ()
    several = healthy(tmp_path / "several", data_file_mb=0.001)
    assert (several / "data/chunk-000/file-001.parquet").exists()
    assert inspect_dataset(several).findings == ()


def test_nothing_is_wrong_with_recorded_demonstrations():
    inspection = inspect_dataset(recorded_pusht())
    # Its quantiles are averages over the episodes.
    assert [(f.kind, f.fault, f.feature) for f in inspection.findings] == [
        ("quantiles", False, "observation.state"),
        ("quantiles", False, "observation.environment_state"),
        ("quantiles", False, "action"),
    ]
    assert (len(inspection.episodes), len(inspection.cameras)) == (206, 1)


@catalogue(NUMBERS)
def test_every_fault_in_the_numbers_is_found(tmp_path, damage, kind, episodes, sentence):
    root = healthy(tmp_path / "set")
    damage(root)
    check(root, kind, episodes, sentence)


@catalogue(FILMS)
def test_every_fault_in_the_films_is_found(tmp_path, damage, kind, episodes, sentence):
    root = with_video(healthy(tmp_path / "set"))
    damage(root)
    inspection = check(root, kind, episodes, sentence)
    assert all(finding.feature == CAMERA for finding in inspection.faults)


@pytest.mark.parametrize("seed", range(25))
def test_no_damage_stops_an_inspection(tmp_path, seed):
    root = with_video(healthy(tmp_path / "set"))
    random = np.random.default_rng(seed)
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.name != "info.json")
    path = files[random.integers(len(files))]
    content = bytearray(path.read_bytes())
    for place in random.integers(len(content), size=random.integers(1, 9)):
        content[place] ^= 1 << int(random.integers(8))
    path.write_bytes(content[: random.integers(len(content))] if seed % 3 == 0 else content)
    inspection = inspect_dataset(root, decode=True)
    write_page(inspection, tmp_path / "page.html", show=1)
    assert seed % 3 or inspection.faults


@pytest.mark.parametrize("template", ["data/{episode}.parquet", "data/{chunk_index.x}", "data/{"])
def test_a_path_that_cannot_be_filled_is_named(tmp_path, template):
    root = healthy(tmp_path / "set")
    change_info(root, lambda info: info.update(data_path=template))
    (fault,) = inspect_dataset(root).faults
    assert fault.message == f"info.json: '{template}' is no data_path; it may name chunk_index, file_index"


def test_faults_are_found_together(tmp_path):
    root = healthy(tmp_path / "set")
    for damage in (nan, infinite, jump, duplicate_time, stale_stats):
        damage(root)
    found = inspect_dataset(root)
    assert {finding.kind for finding in found.faults} >= {"nan", "infinite", "timestamp_duplicate"}
    assert {finding.kind for finding in found.remarks} >= {"jump"}


def test_frames_that_do_not_decode_are_found_when_asked(tmp_path):
    root = with_video(healthy(tmp_path / "set"))
    content = bytearray((root / VIDEO).read_bytes())
    begin = content.index(b"mdat") + 1200
    content[begin : begin + 4000] = bytes(4000)
    (root / VIDEO).write_bytes(content)
    assert not [f for f in inspect_dataset(root).faults if f.kind == "video_damaged"]
    assert [f.kind for f in inspect_dataset(root, decode=True).faults] == ["video_damaged"]


def test_what_is_odd_is_remarked_and_no_fault(tmp_path):
    root = healthy(tmp_path / "set")
    constant(root)
    change_json(root / "meta/stats.json", lambda stats: stats.pop("action"))
    change_table(root / EPISODES, lambda t: t.select([n for n in t.column_names if "/action/" not in n]))
    (remark,) = inspect_dataset(root).findings
    assert (remark.kind, remark.fault, remark.feature) == ("constant", False, "action")
    assert "1 dimension of 2 that never changes: dy" in remark.message
    (root / "meta/stats.json").unlink()
    assert {f.kind for f in inspect_dataset(root).remarks} == {"constant", "stats"}


def test_what_jumps_in_every_episode_is_no_fault(tmp_path):
    root = healthy(tmp_path / "set")
    noise = np.random.default_rng(0).normal(scale=1e-5, size=(TOTAL, 1)).astype(np.float32)
    change_column(root, "observation.gripper", lambda values: values + noise[:, 0])
    (remark,) = inspect_dataset(root).findings
    assert (remark.kind, remark.fault, remark.episodes) == ("jump", False, (0, 1, 2, 3))
    jump(root)
    several = [f for f in inspect_dataset(root).findings if f.kind == "jump"]
    assert {(f.fault, f.feature, f.episodes) for f in several} == {
        (False, "observation.gripper", (0, 1, 2, 3)),
        (False, "observation.state", (3,)),
    }


def test_a_jump_may_be_real_so_it_is_remarked(tmp_path):
    def without_stored_statistics(root):  # which would not be those of the changed numbers
        change_json(root / "meta/stats.json", lambda stats: stats.pop("observation.state"))
        name = "/observation.state/"
        change_table(root / EPISODES, lambda t: t.select([n for n in t.column_names if name not in n]))
        return root

    root = without_stored_statistics(healthy(tmp_path / "set"))
    jump(root)
    found = inspect_dataset(root)
    assert not found.faults
    (remark,) = [finding for finding in found.remarks if finding.kind == "jump"]
    assert (remark.kind, remark.fault, remark.episodes) == ("jump", False, (3,))
    place = "'observation.state' (dimension x) jumps in 2 frames of 1 episode, first in frame 20 of episode 3"
    assert remark.message.startswith(place)
    assert "and back in the next frame, as a reading that failed does" in remark.message
    command = ["data", "inspect", str(root)]
    assert CliRunner().invoke(main, command).exit_code == 0
    assert CliRunner().invoke(main, [*command, "--strict"]).exit_code == 1

    def put_back(values):
        values = values.copy()
        values[START[3] + 20 : START[3] + LENGTHS[3], 0] += 30.0
        return values

    other = healthy(tmp_path / "other")
    change_column(other, "observation.state", put_back)
    (remark,) = [finding for finding in inspect_dataset(other).findings if finding.kind == "jump"]
    assert not remark.fault
    assert "does not come back at once, as an object does that is put back" in remark.message


def turning(half):
    """Return the orientations `(N, 4)` of an object that is turned by twice so many radians."""
    axis = np.array([0.6, 0.64, 0.48])
    return np.concatenate([np.cos(half)[:, None], np.sin(half)[:, None] * axis], axis=1).astype(np.float32)


@pytest.mark.parametrize("is_put_back", [False, True])
def test_a_quaternion_that_changes_its_sign_does_not_jump(tmp_path, is_put_back):
    length = 70
    features = {
        "observation.object_quat": {"dtype": "float32", "shape": [4], "names": ["qw", "qx", "qy", "qz"]},
        "action": {"dtype": "float32", "shape": [1], "names": ["x"]},
    }
    with LeRobotWriter(tmp_path / "set", fps=10, features=features) as writer:
        for episode in range(8):
            half = np.linspace(1.2, 1.9, length)
            if episode == 3:
                half[11:] += 0.08  # it turns a little faster just where the sign changes
            four = turning(half)
            if episode == 3:
                four[11:] *= -1
            if episode == 5 and is_put_back:
                four[35:] = four[35:][:, [1, 0, 2, 3]]
            action = np.sin(np.arange(length, dtype=np.float32))[:, None]
            writer.add_episode({"observation.object_quat": four, "action": action}, "turn")
    found = inspect_dataset(tmp_path / "set")
    jumps = [f for f in found.findings if f.kind == "jump"]
    assert [(f.fault, f.episodes) for f in jumps] == ([(False, (5,))] if is_put_back else [])
    assert not found.faults


def test_version_2_1(tmp_path):
    root = with_video(healthy(tmp_path / "set"))
    as_v21(root)
    assert inspect_dataset(root).findings == ()
    write_film(root / f"videos/chunk-000/{CAMERA}/episode_000002.mp4", range(LENGTHS[2] - 5))
    (root / f"videos/chunk-000/{CAMERA}/episode_000001.mp4").unlink()
    (root / "data/chunk-000/episode_000003.parquet").write_bytes(b"PAR1")
    found = {finding.kind: finding for finding in inspect_dataset(root).faults}
    assert {kind: finding.episodes for kind, finding in found.items()} == {
        "data_file": (3,),
        "video_file": (1,),
        "video_frames": (2,),
    }
    assert "5 frames of 1 episode are not in the video" in found["video_frames"].message


def test_twins_and_short_episodes_are_remarked(tmp_path):
    from trainer.data.lerobot import LeRobotWriter

    root = tmp_path / "set"
    walk = np.cumsum(np.random.default_rng(0).normal(size=(50, 2)), axis=0).astype(np.float32)
    features = {"action": {"dtype": "float32", "shape": [2], "names": None}}
    with LeRobotWriter(root, fps=FPS, features=features) as writer:
        for values in (walk, walk * 2, walk, walk[:5]):
            writer.add_episode({"action": values}, "walk")
    remarks = {f.kind: f for f in inspect_dataset(root).findings}
    assert set(remarks) == {"twin", "short_episode"}
    assert "episode 2 is number for number the same as episode 0" in remarks["twin"].message
    assert remarks["short_episode"].episodes == (3,)


def test_the_table_names_what_is_there(sound):
    result = CliRunner().invoke(main, ["data", "inspect", str(sound)])
    assert result.exit_code == 0, result.output
    text = result.output
    assert "LeRobot v3.0, robot arm, 10 frames/s" in text
    assert "4 episodes, 195 frames (20 s), 40 to 60 frames each" in text
    assert "task 0: push the block, way 0 (3 episodes)" in text
    assert re.search(r"observation.state +float32 3 +x ", text)
    assert text.rstrip().endswith("No faults, no remarks.")


def test_exit_codes(tmp_path, sound):
    run = CliRunner().invoke
    broken = healthy(tmp_path / "broken")
    nan(broken)
    odd = healthy(tmp_path / "odd")
    (odd / "meta/stats.json").unlink()
    result = run(main, ["data", "inspect", str(broken)])
    assert result.exit_code == 1
    assert "FAULT   nan: 'observation.state' has NaN in frame 7 of episode 1" in result.output
    assert run(main, ["data", "inspect", str(odd)]).exit_code == 0
    assert run(main, ["data", "inspect", str(odd), "--strict"]).exit_code == 1
    for nothing in (tmp_path / "nowhere", tmp_path):
        result = run(main, ["data", "inspect", str(nothing)])
        assert result.exit_code == 2
        assert len(result.output.strip().splitlines()) == 1
    result = run(main, ["data", "inspect", str(sound), "--html", str(tmp_path / "no" / "folder.html")])
    assert result.exit_code == 2
    assert "cannot be written" in result.output


@pytest.mark.parametrize(
    "damage",
    [None, nan, truncated_data, future_version],
    ids=["whole", "nan", "truncated_data", "future_version"],
)
def test_the_page_stands_on_its_own(tmp_path, damage):
    root = with_video(healthy(tmp_path / "<set>"))
    if damage is not None:
        damage(root)
    page = tmp_path / "page.html"
    result = CliRunner().invoke(main, ["data", "inspect", str(root), "--html", str(page), "--show", "2"])
    assert result.exit_code == (0 if damage is None else 1), result.output
    text = page.read_text()
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)
    assert "&lt;set&gt;" in text
    assert "<set>" not in text
    if damage in (None, nan):
        assert text.count("data:image/jpeg") == 2
        assert len(re.findall(r'class="name">episode \d+', text)) >= 6
    if damage is nan:
        assert "episode 1" in text
        assert "has NaN in frame 7 of episode 1" in text
        hover = json.loads(re.search(r'data-hover="([^"]*)"', text)[1].replace("&#34;", '"'))
        assert {"label", "x", "y"} <= set(hover[0])
    if damage is future_version:
        assert "which is newer" in text


def test_pictures_in_the_data_files(tmp_path):
    import io

    from PIL import Image

    root = healthy(tmp_path / "set")
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 12, 3), 90, np.uint8)).save(buffer, format="PNG")
    cells = [{"bytes": buffer.getvalue(), "path": None} for _ in range(TOTAL)]

    def add(table):
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        return table.append_column(CAMERA, pa.array(cells, kind))

    change_table(root / DATA, add)
    names = ["height", "width", "channels"]
    change_info(
        root,
        lambda info: info["features"].update(
            {CAMERA: {"dtype": "image", "shape": [8, 12, 3], "names": names}}
        ),
    )
    assert inspect_dataset(root).findings == ()
    page = tmp_path / "page.html"
    CliRunner().invoke(main, ["data", "inspect", str(root), "--html", str(page)])
    assert page.read_text().count("data:image/jpeg") == len(LENGTHS)
    cells[START[1] + 4]["bytes"] = None
    change_table(root / DATA, lambda table: add(table.drop_columns([CAMERA])))
    (finding,) = inspect_dataset(root).faults
    assert (finding.kind, finding.episodes) == ("image_missing", (1,))


def test_the_folder_is_only_read(sound):
    def listing(root: Path) -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}

    before = listing(sound)
    inspect_dataset(sound)
    assert listing(sound) == before


def test_a_dataset_that_names_no_videos_is_inspected_to_its_end(tmp_path):
    root = with_video(healthy(tmp_path / "set"))
    change_json(root / "meta/info.json", lambda info: info.update(video_path=None))
    change_column(root, "observation.state", set_at((2, 0), np.nan))
    kinds = {finding.kind for finding in inspect_dataset(root).faults}
    assert {"video_place", "nan"} <= kinds


def test_an_angle_that_wraps_around_is_no_jump_beside_a_number_that_is_infinite(tmp_path):
    def turning(values):
        return ((0.2 * np.arange(len(values)) + np.pi) % (2 * np.pi) - np.pi).astype(np.float32)

    root = healthy(tmp_path / "set")
    change_column(root, "observation.gripper", turning)
    assert not [f for f in inspect_dataset(root).findings if f.kind == "jump"]
    change_column(root, "observation.gripper", set_at(5, np.inf))
    assert not [f for f in inspect_dataset(root).findings if f.kind == "jump"]
