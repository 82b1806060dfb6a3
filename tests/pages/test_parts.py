"""Axes and numbers on the pages, and that a page with nothing but the shared parts stands on its own."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from trainer.pages.parts.charts import linear_axis, lines_chart, log_axis
from trainer.pages.parts.render import render_page
from trainer.utils import text


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-3.2, 7.9), (0, 2000), (1e-7, 3e-7), (-1e300, 1e300), (4, 4)]
)
def test_linear_ticks_lie_on_the_axis_and_are_few(low: float, high: float) -> None:
    axis = linear_axis(low, high)
    assert 2 <= len(axis.ticks) <= 8
    assert all(-1e-6 <= tick.share <= 1 + 1e-6 for tick in axis.ticks)
    assert len({tick.label for tick in axis.ticks}) == len(axis.ticks)


@pytest.mark.parametrize(
    ("low", "high"), [(1, 1), (0.02, 1.4), (0.5, 0.7), (3e-9, 2e8), (1e-300, 1e300), (0.9, 11)]
)
def test_logarithmic_ticks_lie_where_their_value_is(low: float, high: float) -> None:
    axis = log_axis(low, high)
    assert 1 <= len(axis.ticks) <= 10
    for tick in axis.ticks:
        value = float(tick.label.replace("\N{MINUS SIGN}", "-").replace(",", ""))
        assert axis.share(np.array([value]))[0] == pytest.approx(tick.share, abs=1e-3)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.963, "0.963"),
        (2000, "2,000"),
        (0.1 + 0.2, "0.3"),
        (1.2e-7, "1.2e~7"),
        (-1.5, "~1.5"),
        (math.nan, "NaN"),
        (-math.inf, "~inf"),
        (None, text.UNKNOWN),
        (1234567.8, "1.235e6"),
        (99_999.96, "100,000"),
    ],
)
def test_numbers_are_written_for_reading(value: float | None, written: str) -> None:
    # ~ stands for the typographic minus sign
    assert text.number(value) == written.replace("~", text.MINUS)


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0.25, "0.2 s"), (59.7, "1 min 0 s"), (245, "4 min 5 s"), (7500, "2 h 5 min"), (1e5, "1 d 3 h")],
)
def test_time_spans_have_two_units(seconds: float, written: str) -> None:
    assert text.duration(seconds) == written


def test_lines_can_stand_anywhere_and_be_read_out() -> None:
    x = np.array([0.0, 10.0, 50.0])
    chart = lines_chart(
        "x", "m", "frame", [("a", np.array([0.0, 1.0, math.nan]))], linear_axis(0, 1), x=x, x_word="frame"
    )
    assert chart.x_axis.high == 50
    (line,) = json.loads(chart.hover)
    assert (line["x"], line["y"], line["share"]) == ([0, 10, 50], [0, 1, None], [0, 0.2, 1])
    assert chart.x_word == "frame"
    assert not lines_chart("x", "", "frame", [("a", x)], linear_axis(0, 1)).hover


def test_a_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    (tmp_path / "small.html").write_text(
        '{% extends "base.html" %}{% from "macros.html" import facts %}'
        "{% block title %}{{ name }}{% endblock %}"
        "{% block main %}{{ facts([(name, 3|number)]) }}{% endblock %}"
    )
    page = render_page(tmp_path, "small.html", {"name": "<b>"})
    assert "<title>&lt;b&gt;</title>" in page
    assert "<dt>&lt;b&gt;</dt><dd>3</dd>" in page
    assert "http://" not in page.replace("http-equiv", "")
