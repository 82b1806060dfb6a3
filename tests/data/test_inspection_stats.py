"""`trainer data stats`: exact numbers on the terminal and, when asked for, on disk."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.inspection_samples import CAMERA, change_column, change_json, healthy, with_video

from trainer.cli import main
from trainer.data.inspection import inspect_dataset
from trainer.data.inspection.recompute import recompute
from trainer.data.lerobot import LeRobotReader


def run(*words):
    return CliRunner().invoke(main, ["data", "stats", *map(str, words)])


def test_numbers_are_exact_and_written_when_asked(tmp_path):
    root = healthy(tmp_path / "set")
    path = root / "meta/stats.json"
    change_column(root, "action", lambda values: values * 3)
    before = path.read_bytes()
    result = run(root)
    assert result.exit_code == 0, result.output
    assert "stats.json says something else:\n  action: m" in result.output
    assert path.read_bytes() == before
    assert "Written" in run(root, "--write").output
    stored = json.loads(path.read_text())
    action = LeRobotReader(root).columns(["action"])["action"].astype(np.float64)
    np.testing.assert_allclose(stored["action"]["mean"], action.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(stored["action"]["std"], action.std(axis=0), rtol=1e-9)
    np.testing.assert_allclose(stored["action"]["q90"], np.quantile(action, 0.9, axis=0), rtol=1e-9)
    assert stored["action"]["count"] == [len(action)]
    assert set(stored) == set(json.loads(before))
    # Those of episodes stay as they were.
    assert [(f.kind, f.fault) for f in inspect_dataset(root).findings] == [("episode_stats", False)]
    assert "says the same" in run(root).output


def test_what_the_writer_stored_is_the_same(tmp_path):
    root = healthy(tmp_path / "set")
    assert run(root, "--write").exit_code == 0
    again = healthy(tmp_path / "again")
    assert json.loads((root / "meta/stats.json").read_text()) == json.loads(
        (again / "meta/stats.json").read_text()
    )


def test_statistics_of_cameras_are_kept(tmp_path):
    root = with_video(healthy(tmp_path / "set"))
    change_json(root / "meta/stats.json", lambda stats: stats.update({CAMERA: {"mean": [[[0.5]]] * 3}}))
    run(root, "--write")
    assert json.loads((root / "meta/stats.json").read_text())[CAMERA] == {"mean": [[[0.5]]] * 3}


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_missing_or_damaged_statistics_are_made(tmp_path, content):
    root = healthy(tmp_path / "set")
    path = root / "meta/stats.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    assert "has no meta/stats.json" in run(root, "--write").output
    assert recompute(root).differences == {}
    assert inspect_dataset(root).findings == ()


def test_mistakes(tmp_path):
    root = healthy(tmp_path / "set")

    def spoil(values):
        values[3, 0] = np.nan

    change_column(root, "action", spoil)
    before = (root / "meta/stats.json").read_bytes()
    for folder, text in ((tmp_path / "none", "no such folder"), (root, "'action' has NaN in frame 3")):
        result = run(folder, "--write")
        assert result.exit_code == 2
        assert text in result.output
    assert (root / "meta/stats.json").read_bytes() == before
