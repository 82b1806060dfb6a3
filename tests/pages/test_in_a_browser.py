"""The pages in a real browser: nothing sticks out on a phone, nothing is refused, the script runs.

Skipped where there is no Chromium (Debian: `apt-get install chromium`).
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers.report_sample import make_run

from trainer.pages.report import build_comparison, build_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium"),
]
# Measures the page in the frame, then reads a chart by the keyboard as a visitor would.
MEASURE = """
addEventListener("load", () => {
  const page = document.querySelector("iframe").contentDocument;
  const wide = [...page.querySelectorAll("main *")].filter((element) =>
    !element.closest(".table-box, pre, nav, svg") &&
    element.getBoundingClientRect().right > page.documentElement.clientWidth + 1);
  const figure = page.querySelector("[data-hover]");
  figure.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft" }));
  const columns = (grid) => getComputedStyle(grid).gridTemplateColumns.split(" ").filter((c) => c !== "0px");
  document.title = JSON.stringify({
    width: page.documentElement.scrollWidth,
    wide: wide.slice(0, 3).map((element) => element.outerHTML.slice(0, 80)),
    readout: figure.querySelector(".readout").textContent,
    columns: [...page.querySelectorAll(".charts:not(.four)")].map(
      (grid) => [grid.children.length, columns(grid).length]),
    background: getComputedStyle(page.body).backgroundColor,
  });
});
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    runs = [make_run(root / "first"), make_run(root / "second")]
    return {"report": build_report(runs[0]), "comparison": build_comparison(runs, root / "comparison.html")}


def measured(page: Path, folder: Path, width: int, dark: bool = False) -> tuple[dict[str, object], str]:
    """Open a page in a frame of some width; return what the script measured and what the console said."""
    text = html.escape(page.read_text(encoding="utf-8"))
    frame = f'<iframe srcdoc="{text}" style="width:{width}px;height:900px;border:0"></iframe>'
    wrapper = folder / "frame.html"
    wrapper.write_text(f"<!DOCTYPE html><meta charset=utf-8><title></title><script>{MEASURE}</script>{frame}")
    command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [
        "--enable-logging=stderr",
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={max(width, 600)},1000",
    ]
    command += ["--blink-settings=preferredColorScheme=0"] if dark else []
    command += ["--virtual-time-budget=10000", "--dump-dom", wrapper.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.S)
    assert title is not None, done.stderr
    assert title[1], done.stderr
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return json.loads(html.unescape(title[1])), console


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["report", "comparison"])
def test_nothing_sticks_out_and_the_script_runs(
    name: str, width: int, pages: dict[str, Path], tmp_path: Path
) -> None:
    found, console = measured(pages[name], tmp_path, width)
    assert found["width"] == width
    assert found["wide"] == []
    assert str(found["readout"]).startswith("step 2,000")
    assert console == ""
    most = 1 if width == 390 else 3
    for charts, columns in found["columns"]:  # type: ignore[attr-defined]
        assert columns == min(charts, most), "charts leave a part of the page empty"


def test_it_is_dark_where_the_reader_wants_it(pages: dict[str, Path], tmp_path: Path) -> None:
    light, _ = measured(pages["report"], tmp_path, 1280)
    dark, _ = measured(pages["report"], tmp_path, 1280, dark=True)
    assert (light["background"], dark["background"]) == ("rgb(255, 255, 255)", "rgb(20, 23, 27)")
