"""Several runs on one page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.report_sample import make_run, metric_records, run_facts, write_metrics

from trainer.commands.report import report as report_command
from trainer.pages.report import ReportError, build_comparison
from trainer.pages.report.comparison import differing_settings, labels, paired_mean, paired_success
from trainer.pages.report.curves import training_clock
from trainer.pages.report.metrics import read_metrics


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs that differ in seed, length, and in the starts at which they fail."""
    root = tmp_path_factory.mktemp("runs")
    first, second = make_run(root / "first"), make_run(root / "second <b>")
    config = (second / "config.yaml").read_text().replace("seed: 7", "seed: 8")
    (second / "config.yaml").write_text(config)
    write_metrics(second, metric_records(1500, seed=1))
    path = second / "evaluations/epoch_40/results.json"
    result = json.loads(path.read_text())
    for episode in result["episodes"][:6]:
        episode.update(success=False, score=0.25)
    result.update(success_rate=0.7, success_interval=[0.48, 0.85], mean_score=0.775)
    path.write_text(json.dumps(result))
    return [first, second]


def words(page: str) -> str:
    return " ".join(re.sub(r"<(style|script)>.*?</\1>|<[^>]*>", " ", page, flags=re.S).split())


def test_the_page_holds_the_results_against_the_first_run(runs: list[Path], tmp_path: Path) -> None:
    page = build_comparison(runs, tmp_path / "page.html").read_text(encoding="utf-8")
    text = words(page)
    assert "2 runs" in text
    # The first fails at start 2, the second at starts 0 to 5: five lost, none gained, of 20.
    row = text[text.index("second &lt;b&gt; 70 %") :]
    assert row.startswith("second &lt;b&gt; 70 % 48 to 85 % 0.775")
    assert "−0.25 (" in row
    assert "<b>" not in page.replace("<b>", "", 0).split("</style>")[1].split("<script>")[0]


def test_every_common_number_has_a_chart_with_a_line_for_each_run(runs: list[Path], tmp_path: Path) -> None:
    page = build_comparison(runs, tmp_path / "page.html").read_text(encoding="utf-8")
    for name in ("Total loss", "flow_loss", "velocity lr", "encoder grad_norm", "Throughput"):
        figure = page[page.index(f'<span class="name">{name}</span>') :].partition("</figure>")[0]
        assert figure.count('class="line ') == 2, name
    assert page.index(">Total loss<") < page.index(">flow_loss<")
    success = page[page.index("Success rate, metaworld/pick-place-v3") :].partition("</figure>")[0]
    assert success.count('class="interval ') == 2


def test_only_settings_that_differ_are_listed(runs: list[Path], tmp_path: Path) -> None:
    text = words(build_comparison(runs, tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "train.seed 7 8" in text
    assert "data.batch_size" not in text
    rows = differing_settings({"a": "x: {y: 1, z: [1, 2]}", "b": "x: {y: 1, z: [1]}\nw: null", "c": None})
    assert rows == [("x.y", ["1", "1", "–"]), ("x.z", ["[1, 2]", "[1]", "–"]), ("w", ["–", "null", "–"])]


def test_runs_without_anything_in_common_have_a_page(runs: list[Path], tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "run.json").write_text(json.dumps(run_facts(finished=None, components=[])))
    text = words(build_comparison([bare, runs[0]], tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "No two of these runs have recorded the same number." in text
    assert "Not finished" in text


def test_the_page_needs_nothing_but_itself(runs: list[Path], tmp_path: Path) -> None:
    page = build_comparison(runs, tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r'(?:src|href)="(?!#)', page)


def test_names_are_as_long_as_they_must_be(tmp_path: Path) -> None:
    assert labels([tmp_path / "a/run", tmp_path / "b/run"]) == ["a/run", "b/run"]
    assert labels([tmp_path / "x", tmp_path / "y"]) == ["x", "y"]


def test_a_run_that_is_named_twice_is_refused(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="is named twice"):
        build_comparison([runs[0], runs[1], runs[0] / "."], tmp_path / "page.html")


def test_the_difference_of_success_rates_over_common_starts() -> None:
    # Table 1 of the paper's kind: 8 gained, 2 lost of 20 common starts; the numbers by hand.
    first = {str(i): float(i < 2) for i in range(20)}
    other = {str(i): float(2 <= i < 10) for i in range(20)}
    found = paired_success(first | {"alone": 1.0}, other)
    assert found is not None
    assert (found.value, found.starts) == (pytest.approx(0.3), 20)
    n, b, c = 22, 8.5, 2.5
    error = np.sqrt(b + c - (b - c) ** 2 / n) / n
    assert found.interval == pytest.approx((6 / n - 1.96 * error, 6 / n + 1.96 * error))
    same = paired_success(first, first)
    assert same is not None
    assert same.interval is not None
    assert same.interval[0] < 0 < same.interval[1]
    assert paired_success({"1": 1.0}, {"2": 1.0}) is None


def test_the_difference_of_scores_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        hard = rng.uniform(size=60)  # a start is hard for both
        first = {str(i): float(v) for i, v in enumerate(hard + 0.1 * rng.normal(size=60))}
        other = {str(i): float(v) for i, v in enumerate(hard + 0.05 + 0.1 * rng.normal(size=60))}
        found = paired_mean(first, other)
        assert found is not None
        assert found.interval is not None
        hits += found.interval[0] <= 0.05 <= found.interval[1]
        assert found.interval[1] - found.interval[0] < 0.12  # unpaired it would be 0.2
    assert 0.92 < hits / 400 < 0.98
    alike = paired_mean({"1": 0.5, "2": 0.5}, {"1": 0.5, "2": 0.5})
    assert alike is not None
    assert alike.interval is None


def test_the_command_compares_several_runs(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(report_command, [str(run) for run in runs])
    assert result.exit_code == 0, result.output
    page = f"comparison_{runs[0].name}_{runs[1].name}.html"  # another pair of runs does not replace it
    assert result.output.endswith(f"Report: {page}\n")
    assert f"{runs[1]}: metaworld/pick-place-v3: success rate 70.0%" in result.output
    assert (tmp_path / page).is_file()


def test_time_under_the_steps_is_that_of_the_rates(tmp_path: Path) -> None:
    records = [
        {"step": s, "total": 1.0, **({"samples_per_s": 100.0} if s % 10 == 9 else {})} for s in range(40)
    ]
    records[39]["samples_per_s"] = 50.0
    write_metrics(tmp_path, records)
    clock = training_clock(read_metrics(tmp_path / "metrics.jsonl"), 200)
    assert clock is not None
    # Ten updates of 200 samples take 20 s at 100 samples/s, and 40 s at 50.
    assert np.interp([0, 10, 30, 40], clock.steps, clock.seconds).tolist() == [0, 20, 60, 100]
    assert training_clock(read_metrics(tmp_path / "metrics.jsonl"), None) is None


def test_a_report_tells_of_time_memory_and_how_the_data_came_about(runs: list[Path]) -> None:
    from trainer.pages.report import build_report

    text = words(build_report(runs[0]).read_text(encoding="utf-8"))
    assert "Memory at most 1.25 GB" in text
    assert "500 1,000 1,500 2,000 0:50 1:40 2:30 3:20 training step; training time below, min:s" in text
    assert "Recorded in metaworld/pick-place-v3 Seed of the starts 3 Attempts of the expert 52" in text
