"""Reading and thinning metrics, against plain loops; and what a chart says about them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from helpers.report_sample import make_run, metric_records, write_metrics

from trainer.pages.report import build_report
from trainer.pages.report.curves import training_curves
from trainer.pages.report.metrics import Series, read_metrics, thin


def series(values: list[float]) -> Series:
    return Series("x", np.arange(1, len(values) + 1, dtype=float), np.array(values))


def test_every_record_is_read(tmp_path: Path) -> None:
    records = metric_records(9_000)
    write_metrics(tmp_path, records)
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    assert metrics.records == 9_000
    assert metrics.last_step == 9_000
    for key in ("total", "encoder lr"):
        np.testing.assert_array_equal(metrics.series[key].values, [record[key] for record in records])


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_truncated_last_line_is_left_out(tmp_path: Path, cut: int) -> None:
    last = json.dumps(metric_records(51)[-1])
    write_metrics(tmp_path, metric_records(50), tail=last[:cut])
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    assert (metrics.records, metrics.truncated, metrics.unreadable) == (50, True, 0)


def test_complete_last_line_without_line_end_counts(tmp_path: Path) -> None:
    write_metrics(tmp_path, [{"step": 1, "total": 2.0}], tail='{"step": 2, "total": 1.0}')
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    assert (metrics.records, metrics.truncated) == (2, False)


def test_lines_that_are_no_records_are_counted(tmp_path: Path) -> None:
    lines = [
        '{"step": 1, "a": 1}',
        '{"step": 2, "a',
        "[]",
        '{"a": 1}',
        '{"step": "x"}',
        "\x00\x00",
        '{"step": 3, "a": 2}',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    assert (metrics.records, metrics.unreadable) == (2, 5)
    assert metrics.series["a"].values.tolist() == [1, 2]


def test_keys_may_come_and_go_and_text_is_no_curve(tmp_path: Path) -> None:
    records = [
        {"step": 1, "a": 1},
        {"step": 2, "a": 2, "phase": "warm-up", "b": 5},
        {"step": 3, "b": 6, "shape": [1, 2]},
        {"step": 4, "a": None},
    ]
    write_metrics(tmp_path, records)
    found = read_metrics(tmp_path / "metrics.jsonl").series
    assert set(found) == {"a", "b"}
    assert found["a"].steps.tolist() == [1, 2, 4]
    assert found["b"].values.tolist() == [5, 6]
    assert math.isnan(found["a"].values[-1])


def test_resumed_run_replaces_the_steps_that_it_repeats(tmp_path: Path) -> None:
    first = [{"step": step, "total": 1.0} for step in range(1, 9)]
    second = [{"step": step, "total": 2.0} for step in range(5, 7)]
    write_metrics(tmp_path, first + second)
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    assert metrics.series["total"].steps.tolist() == [1, 2, 3, 4, 5, 6]
    assert metrics.series["total"].values.tolist() == [1, 1, 1, 1, 2, 2]
    assert metrics.replaced == 4


@pytest.mark.parametrize("count", [1, 2, 7, 100, 1013])
def test_envelope_covers_every_record(count: int) -> None:
    values = np.random.default_rng(count).normal(size=count).tolist()
    curve = thin(series(values), points=50)
    assert len(curve.steps) == min(50, count)
    assert np.nanmin(curve.low) == min(values)
    assert np.nanmax(curve.high) == max(values)
    assert curve.steps[0] == 1
    assert curve.steps[-1] == count
    assert np.all(np.diff(curve.steps) > 0)


def test_average_is_that_of_the_neighbouring_records() -> None:
    values = np.random.default_rng(0).normal(size=200).tolist()
    curve = thin(series(values), points=200)
    half = (curve.window - 1) // 2
    assert half >= 1
    expected = [np.mean(values[max(0, i - half) : i + half + 1]) for i in range(200)]
    np.testing.assert_allclose(curve.mean, expected)


def test_one_huge_value_does_not_spoil_the_average_after_it() -> None:
    values = [1.0] * 2000
    values[100] = 1e30
    curve = thin(series(values), points=200)
    assert curve.mean[-1] == 1.0


def test_values_that_are_not_finite_are_counted_and_marked() -> None:
    values = [1.0, 2.0, math.nan, math.inf, 3.0]
    curve = thin(series(values), points=50)
    assert curve.broken == 2
    assert curve.broken_steps.tolist() == [3, 4]
    assert np.isnan(curve.mean[2])
    assert np.nanmax(curve.high) == 3.0


def test_page_tells_of_values_that_are_not_finite(tmp_path: Path) -> None:
    records = metric_records(100)
    records[59]["total"] = math.nan
    records[99]["total"] = math.inf
    run = tmp_path / "run"
    run.mkdir()
    write_metrics(run, records)
    page = build_report(run).read_text()
    assert "total: 2 values are NaN or infinite, first at step 60" in page
    assert 'class="broken"' in page
    assert ">inf<" in page, "the last value is named"
    for hover in page.split("data-hover=")[1:]:
        assert "NaN" not in hover.split(">")[0], "the read-out is JSON, which has no NaN"


def test_line_is_interrupted_where_nothing_is_finite(tmp_path: Path) -> None:
    records = metric_records(200)
    for record in records[80:120]:
        record["total"] = math.nan
    write_metrics(tmp_path, records)
    group = training_curves(read_metrics(tmp_path / "metrics.jsonl"))[0]
    total = group.charts[0]
    assert total.y_axis.log
    line = str(total.drawing).split('class="line c0" d="')[1].split('"')[0]
    assert line.count("M") == 2
    ordinates = [int(point.split()[1]) for point in line.replace("M", "L").split("L")[1:]]
    assert all(0 <= ordinate <= 1000 for ordinate in ordinates)


def test_a_validation_loss_stands_beside_the_loss_of_training(tmp_path: Path) -> None:
    write_metrics(tmp_path, metric_records(200))
    measured = [
        {"step": s, "epoch": s / 50, "validation/total": 2.5, "validation/error": 0.5} for s in (50, 200)
    ]
    (tmp_path / "validations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in measured))
    page = build_report(tmp_path).read_text()
    chart = page.split("Total loss")[1].split("</figure>")[0]
    assert "training" in chart
    assert "validation" in chart
    assert "2.5" in chart
    assert "validation/error" in page


def test_run_of_nothing_but_nan_has_a_page(tmp_path: Path) -> None:
    write_metrics(tmp_path, [{"step": step, "total": math.nan} for step in range(1, 30)])
    assert "29 values are NaN or infinite" in build_report(tmp_path).read_text()


@pytest.mark.parametrize("values", [[0.0], [5.0], [1e-320, 1e300], [-1.0, 1.0], [1e308, -1e308], [3.0, 3.0]])
def test_extreme_values_have_a_chart(tmp_path: Path, values: list[float]) -> None:
    write_metrics(tmp_path, [{"step": i + 1, "total": v, "lr": v} for i, v in enumerate(values)])
    page = build_report(tmp_path).read_text()
    assert "nan" not in "".join(part.split('"')[0] for part in page.split(' d="')[1:])


def test_loss_that_is_not_positive_has_a_linear_axis(tmp_path: Path) -> None:
    write_metrics(tmp_path, [{"step": step, "nll": 3.0 - step} for step in range(1, 9)])
    (group,) = training_curves(read_metrics(tmp_path / "metrics.jsonl"))
    assert not group.charts[0].y_axis.log
    assert any("not all values are positive" in note for note in group.charts[0].notes)


def test_long_run_with_many_metrics_stays_a_small_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for evaluation in (run / "evaluations").iterdir():
        for film in evaluation.glob("*.mp4"):
            film.unlink()
    rng = np.random.default_rng(0)
    keys = [f"part{i} {what}" for i in range(10) for what in ("loss", "lr", "grad_norm")]
    table = rng.lognormal(size=(20_000, len(keys)))
    records = [{"step": i + 1, **dict(zip(keys, row, strict=True))} for i, row in enumerate(table.tolist())]
    write_metrics(run, records)
    assert build_report(run).stat().st_size < 2_000_000
