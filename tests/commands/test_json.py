"""What a program reads of commands: one JSON document on the standard output, and nothing beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.inspection_samples import CAMERA, LENGTHS, change_column, change_json, healthy, with_video
from helpers.report_sample import make_run

from trainer.cli import main
from trainer.data.lerobot import LeRobotReader


def read(*words: Any, exit_code: int = 0) -> Any:
    result = CliRunner().invoke(main, [*map(str, words), "--json"])
    assert result.exit_code == exit_code, result.output

    def refused(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(result.stdout, parse_constant=refused)


def test_an_inspection(tmp_path: Path) -> None:
    root = with_video(healthy(tmp_path / "set"))
    found = read("data", "inspect", root)
    assert (found["root"], found["version"], found["fps"], found["robot_type"]) == (
        str(root),
        "v3.0",
        10,
        "arm",
    )
    assert [one["length"] for one in found["episodes"]] == list(LENGTHS)
    assert found["frames"] == sum(LENGTHS)
    assert found["tasks"] == ["push the block, way 0", "push the block, way 1"]
    assert [camera["name"] for camera in found["cameras"]] == [CAMERA]
    assert (found["faults"], found["remarks"], found["page"]) == ([], [], None)
    action = next(one for one in found["features"] if one["name"] == "action")
    values = LeRobotReader(root).columns(["action"])["action"].astype(np.float64)
    assert [one["name"] for one in action["dimensions"]] == ["dx", "dy"]
    assert [one["std"] for one in action["dimensions"]] == pytest.approx(values.std(axis=0).tolist())


def test_an_inspection_with_faults_and_a_page(tmp_path: Path) -> None:
    root = healthy(tmp_path / "set")

    def spoil(values: np.ndarray) -> None:
        values[:, 0] = np.nan

    change_column(root, "action", spoil)
    page = tmp_path / "page.html"
    found = read("data", "inspect", root, "--html", page, exit_code=1)
    assert [one["kind"] for one in found["faults"]] == ["nan"]
    assert found["faults"][0]["feature"] == "action"
    assert found["faults"][0]["episodes"] == [0, 1, 2, 3]
    dimension = next(one for one in found["features"] if one["name"] == "action")["dimensions"][0]
    assert dimension["low"] is None
    assert dimension["broken"] == sum(LENGTHS)
    assert found["page"] == str(page)
    assert page.is_file()


def test_an_inspection_of_what_cannot_be_opened(tmp_path: Path) -> None:
    root = healthy(tmp_path / "set")
    change_json(root / "meta/info.json", lambda info: info.update(codebase_version="v9.0"))
    found = read("data", "inspect", root, exit_code=1)
    assert [one["kind"] for one in found["faults"]] == ["metadata"]
    assert (found["version"], found["episodes"]) == (None, [])


def test_statistics(tmp_path: Path) -> None:
    root = healthy(tmp_path / "set")
    change_json(root / "meta/stats.json", lambda stats: stats["action"]["mean"].__setitem__(0, 12.0))
    found = read("data", "stats", root)
    values = LeRobotReader(root).columns(["action"])["action"].astype(np.float64)
    assert found["statistics"]["action"]["q99"] == pytest.approx(np.quantile(values, 0.99, axis=0).tolist())
    assert found["differences"]["action"].startswith("mean is 12, the data says ")
    assert (found["missing"], found["written"]) == (False, None)
    assert read("data", "stats", root, "--write")["written"] == str(root / "meta/stats.json")
    assert read("data", "stats", root)["differences"] == {}


def test_a_report(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name) for name in ("first", "second")]
    found = read("report", runs[0])
    assert found["page"] == str(runs[0] / "report.html")
    [verdict] = found["verdicts"][str(runs[0])]
    assert "success rate 95.0% (95 % interval 76.4% to 99.1%)" in verdict
    found = read("report", *runs, "--out", tmp_path / "both.html")
    assert found["page"] == str(tmp_path / "both.html")
    assert list(found["verdicts"]) == list(map(str, runs))


def test_a_model(tmp_path: Path) -> None:
    path = tmp_path / "head.yaml"
    path.write_text(
        "schema_version: 1\nshapes: {x: [B, 4]}\nmodel: {graph: {inputs: [x], modules: {head: {_type_: "
        "nn.Linear, in_features: 4, out_features: 3}}, nodes: [{name: y, call: 'module:head', args: [$x]}], "
        "outputs: [y]}}\n"
    )
    found = read("model", "show", path)
    assert (found["parameters"], found["misfit"], found["svg"]) == (15, None, None)
    assert [one["shapes"] for one in found["steps"] if one["kind"] == "module"] == [["2×3"]]
    found = read("model", "show", path, "--input", "x=2x5", "--svg", tmp_path / "head.svg", exit_code=2)
    assert "head" in found["misfit"]
    assert found["svg"] == str(tmp_path / "head.svg")
