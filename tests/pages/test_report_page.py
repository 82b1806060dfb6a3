"""What a reader of the report finds on the page, and that the page needs nothing but itself."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.report_sample import (
    CONFIG,
    make_run,
    metric_records,
    run_facts,
    write_evaluation,
    write_metrics,
    write_video,
)

from trainer.commands.report import report as report_command
from trainer.pages.report import ReportError, build_report, media

VOID = {"meta", "br", "img", "link", "input", "hr", "path", "rect"}


class Page(HTMLParser):
    """Parses a page, checks that its elements are balanced and keeps what the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        assert len(self.ids) == len(set(self.ids)), "an id stands twice"

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append((tag, values))
        if values.get("id"):
            self.ids.append(str(values["id"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.words.append(
                data + " "
                if self.open and self.open[-1] in ("td", "th", "p", "dd", "strong", "span")
                else data
            )


def read(run: Path) -> Page:
    return Page(build_report(run).read_text(encoding="utf-8"))


def text_of(html: str) -> str:
    """Return the text of a piece of HTML, line ends and all."""
    parts: list[str] = []
    parser = HTMLParser(convert_charrefs=True)
    parser.handle_data = parts.append  # type: ignore[method-assign]
    parser.feed(html)
    parser.close()
    return "".join(parts)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "pick_place_flow")


@pytest.fixture
def run(whole_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_run, tmp_path / "pick_place_flow"))


@pytest.fixture(scope="module")
def page(whole_run: Path) -> Page:
    return read(whole_run)


def test_page_is_written_into_the_run_folder_or_where_it_is_told(run: Path, tmp_path: Path) -> None:
    assert build_report(run) == run / "report.html"
    assert build_report(run, tmp_path / "other.html") == tmp_path / "other.html"
    assert (tmp_path / "other.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    "words",
    [
        "95 % success over 20 episodes",
        "95 % interval 76.4 to 99.1 %",
        "0.963 mean score",
        "runs/pick_place/epoch_40",
        "3 min 20 s",  # training time
        "2.02 M, 1.9 M trainable",
        "Finished 2026-03-01 10:04 after 2,000 steps.",
        "1,903,620",
        "2,023,684",  # the total of the model table
        "adamw_warmup_cosine_decay",
        "frozen",
        "3,921",  # frames
        "61 to 104 frames, mean 78.4",
        "pick the puck and place it",
        "joint_3",
        "0 to 15 (16 frames)",
        "8 \N{MULTIPLICATION SIGN} 16 \N{MULTIPLICATION SIGN} 4",
        "Example CPU 3000",
        "24 GB",
        "2.13.0",
        "git checkout 0123456789abcdef0123456789abcdef01234567",
        "'examples/configs/pick place.yaml'",
        "--seed 100000",
        "seed 100002, 200 steps, score 0.25",
        "Mean return 800; 2,042 control steps per second; metaworld 3.1.1.",
    ],
)
def test_page_says(page: Page, words: str) -> None:
    assert words in page.text


def test_the_title_is_the_name_of_the_run_where_it_has_one(run: Path) -> None:
    assert "<h1>pick place by flow</h1>" in build_report(run).read_text()
    (run / "run.json").write_text(json.dumps(run_facts(name=None)))
    assert "<h1>pick_place_flow</h1>" in build_report(run).read_text()


@pytest.mark.parametrize("damaged", [3, [3], [{}], [{"iteration": "x", "changes": [None, {"before": 1}]}]])
def test_other_settings_in_a_damaged_file_do_not_stop_the_page(run: Path, damaged: object) -> None:
    (run / "run.json").write_text(json.dumps(run_facts(taken_up=damaged)))
    assert "95 % success over 20 episodes" in read(run).text


def test_run_of_two_processes_is_repeated_with_torchrun(page: Page) -> None:
    assert "torchrun \\ --nproc_per_node=2 trainer/offline_trainer.py" in page.text


@pytest.mark.parametrize(
    ("command", "world_size", "shown"),
    [
        (
            ["python", "trainer/offline_trainer.py", "--train_config", "a.yaml"],
            1,
            "python trainer/offline_trainer.py",
        ),
        (["trainer/offline_trainer.py", "--train_config", "a.yaml"], 1, "python trainer/offline_trainer.py"),
        (
            ["python", "trainer/offline_trainer.py"],
            2,
            "torchrun --nproc_per_node=2 trainer/offline_trainer.py",
        ),
        (["trainer", "train", "a.yaml"], 1, "trainer train a.yaml"),
        (["trainer", "train", "a.yaml"], 2, "torchrun --nproc_per_node=2 --no-python trainer train a.yaml"),
    ],
)
def test_command_is_shown_with_its_launcher(
    run: Path, command: list[str], world_size: int, shown: str
) -> None:
    (run / "run.json").write_text(json.dumps(run_facts(command=command, world_size=world_size)))
    assert shown in read(run).text


def test_checkpoint_named_within_the_run_is_evaluated_by_its_whole_path(run: Path) -> None:
    path = run / "evaluations/epoch_40/results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "checkpoint": "epoch_40"}))
    assert f"trainer evaluate {run / 'epoch_40'}" in read(run).text


def test_configuration_can_be_copied_as_it_is(run: Path) -> None:
    text = build_report(run).read_text()
    config = text.split('id="config"')[1].split("</pre>")[0]
    found = re.search(r"<code>(.*)</code>", config, re.S)
    assert found is not None
    assert text_of(found.group(1)) == CONFIG.rstrip()


def test_every_metric_has_a_chart(page: Page) -> None:
    charts = [attrs["data-hover"] for tag, attrs in page.tags if tag == "figure" and "data-hover" in attrs]
    labels = {line["label"] for chart in charts for line in json.loads(chart or "")}
    assert labels >= {
        "total",
        "flow_loss",
        "proprio_loss",
        "encoder",
        "velocity",
        "samples_per_s",
        "data_wait",
    }
    assert "log axis" in page.text
    assert "samples / s" in page.text


def test_page_needs_no_network_and_no_other_file(whole_run: Path, page: Page) -> None:
    for tag, attrs in page.tags:
        for name in ("src", "href", "poster", "srcset", "data", "action"):
            value = attrs.get(name)
            if value is not None:
                assert value.startswith(("data:", "#")), (tag, name, value[:60])
    text = build_report(whole_run).read_text()
    assert not re.search(r"https?://", text)
    assert "@import" not in text
    assert "url(" not in text
    policy = next(str(attrs["content"]) for _, attrs in page.tags if "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'")


def test_videos_of_the_newest_checkpoint_are_embedded(page: Page) -> None:
    videos = [attrs for tag, attrs in page.tags if tag == "video"]
    assert len(videos) == 6
    assert all(str(video["src"]).startswith("data:video/mp4;base64,") for video in videos)


def test_videos_beyond_the_budget_become_frames_and_then_names(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [path.stat().st_size for path in sorted((run / "evaluations/epoch_40").glob("*.mp4"))]
    monkeypatch.setattr("trainer.pages.report.page.VIDEO_BUDGET_BYTES", max(sizes) * 2)
    monkeypatch.setattr(media, "_FRAME_SHEETS", 1)
    page = read(run)
    assert sum(tag == "video" for tag, _ in page.tags) == 2
    assert sum(tag == "img" for tag, _ in page.tags) == 1
    assert "Frames only: the page has no room for more video." in page.text
    assert "3 of 6 videos are left out to keep the page small" in page.text
    assert "Episode 2" in page.text, "the failure comes first"


def test_codec_that_browsers_do_not_play_becomes_frames(run: Path) -> None:
    write_video(run / "evaluations/epoch_40/episode_000.mp4", codec="mpeg4")
    page = read(run)
    assert "not every browser plays mpeg4" in page.text
    assert sum(tag == "img" for tag, _ in page.tags) == 1


def test_video_that_is_missing_or_damaged_is_named(run: Path) -> None:
    (run / "evaluations/epoch_40/episode_000.mp4").unlink()
    (run / "evaluations/epoch_40/episode_001.mp4").write_bytes(b"no film at all")
    page = read(run)
    assert "The file episode_000.mp4 is missing." in page.text
    assert "The file episode_001.mp4 cannot be read." in page.text
    assert sum(tag == "video" for tag, _ in page.tags) == 4


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("metrics.jsonl", "There is no metrics.jsonl yet"),
        ("config.yaml", "There is no config.yaml in the run folder."),
        ("run.json", "run.json is missing"),
        ("dataset.json", "There is no dataset.json"),
        ("first_batch.npz", "There is no first_batch.npz"),
        ("latest", "epoch_40"),
        ("models", "velocity"),
        ("evaluations.jsonl", "95 % success over 20 episodes"),
        ("evaluations", "This evaluation has no results.json"),
    ],
)
def test_each_part_may_be_missing(run: Path, name: str, sentence: str) -> None:
    path = run / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    assert sentence in read(run).text


@pytest.mark.parametrize("name", ["config.yaml", "run.json", "metrics.jsonl", "dataset.json"])
def test_one_file_is_enough(run: Path, tmp_path: Path, name: str) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(run / name, alone / name)
    page = read(alone)
    assert "no evaluation yet" in page.text
    assert "There are no rollouts to show before the first evaluation." in page.text


@pytest.mark.parametrize(
    "name", ["run.json", "dataset.json", "first_batch.npz", "evaluations/epoch_40/results.json"]
)
@pytest.mark.parametrize("content", [b"", b'{"a": ', b"[1, 2]", b"\xff\xfe\x00"])
def test_damaged_file_is_named_and_the_rest_stays(run: Path, name: str, content: bytes) -> None:
    (run / name).write_bytes(content)
    page = read(run)
    assert name in page.text
    assert "Training curves" in page.text


def test_values_of_the_wrong_type_do_not_stop_the_page(run: Path) -> None:
    facts = {key: [{"x": 1}, None] for key in run_facts()}
    (run / "run.json").write_text(json.dumps(facts))
    (run / "dataset.json").write_text(
        json.dumps({"features": {"a": 3, "b": {"shape": "x", "names": 4}}, "fps": "x"})
    )
    wrong = {
        "success_rate": "high",
        "episodes": [3, {"seed": {}, "success": "yes", "video": 5}],
        "step": [],
        "env": {},
    }
    (run / "evaluations/epoch_40/results.json").write_text(json.dumps(wrong))
    read(run)


def test_run_in_progress(run: Path) -> None:
    (run / "run.json").write_text(json.dumps(run_facts(finished=None, train_seconds=None)))
    write_metrics(run, metric_records(120), tail='{"step": 121, "epo')
    page = read(run)
    assert "Not finished: in progress or interrupted, 120 of 2,000 steps recorded." in page.text
    assert "The last line of metrics.jsonl is incomplete" in page.text


def test_evaluation_notes_and_missing_videos_are_told(run: Path) -> None:
    path = run / "evaluations/epoch_40/results.json"
    results = json.loads(path.read_text())
    results["notes"] = ["No OpenGL: so no videos were made."]
    for episode in results["episodes"]:
        episode["video"] = None
    path.write_text(json.dumps(results))
    page = read(run)
    assert "No OpenGL: so no videos were made." in page.text
    assert "This evaluation made no videos." in page.text


def test_verdict_is_the_newest_checkpoint_and_not_the_best(run: Path) -> None:
    write_evaluation(run, 80, failures=set(range(10)), videos=0)
    page = read(run)
    assert "50 % success over 20 episodes" in page.text
    assert "95 % success over" not in page.text


def test_an_evaluation_of_a_step_is_newer_than_one_of_an_earlier_epoch(run: Path) -> None:
    facts = json.loads((run / "run.json").read_text())
    write_evaluation(run, 80, failures=set(range(10)), videos=0)
    (run / "evaluations/epoch_80").rename(run / "evaluations/later")
    path = run / "evaluations/later/results.json"
    for step, newest in ((41 * facts["steps_per_epoch"], "50 %"), (3, "95 %")):
        results = {**json.loads(path.read_text()), "checkpoint": f"runs/pick_place/step_{step}"}
        path.write_text(json.dumps(results))
        assert f"{newest} success over 20 episodes" in read(run).text


def test_changed_working_tree_is_a_warning(run: Path) -> None:
    git = {"revision": "abc123", "dirty": True}
    (run / "run.json").write_text(json.dumps(run_facts(git=git)))
    assert "The working tree had uncommitted changes" in read(run).text


HOSTILE = "</script></style></code><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}"


def test_everything_from_files_is_escaped(run: Path) -> None:
    records = [{**record, HOSTILE: 1.0, f"{HOSTILE} lr": 0.1} for record in metric_records(30)]
    write_metrics(run, records)
    (run / "config.yaml").write_text(f"{HOSTILE}: {HOSTILE}\n# {HOSTILE}\nname: {HOSTILE}\n")
    component = {"name": HOSTILE, "yaml": HOSTILE, "parameters": 1, "trainable": 1, "optimizer": HOSTILE}
    facts = run_facts(
        command=[HOSTILE], components=[component], machine={HOSTILE: HOSTILE}, versions={HOSTILE: HOSTILE}
    )
    (run / "run.json").write_text(json.dumps({**facts, "device": HOSTILE, "git": {"revision": HOSTILE}}))
    feature = {"dtype": HOSTILE, "shape": [1], "names": [HOSTILE]}
    dataset = {"root": HOSTILE, "tasks": [HOSTILE], "robot_type": HOSTILE, "features": {HOSTILE: feature}}
    (run / "dataset.json").write_text(json.dumps(dataset))
    path = run / "evaluations/epoch_40/results.json"
    results = json.loads(path.read_text())
    results.update(env=HOSTILE, checkpoint=HOSTILE + "/epoch_40", notes=[HOSTILE])
    results["episodes"][0].update(seed=HOSTILE, video=HOSTILE)
    path.write_text(json.dumps(results))
    (run / "latest").write_text(HOSTILE)
    np.savez(run / "first_batch.npz", **{"a<b>&\"'": np.zeros((2, 3))})
    page = read(run)
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert not any(attrs.get("src") == "x" for _, attrs in page.tags)
    assert page.text.count(HOSTILE) >= 15, "shown as it is, not swallowed"
    assert 'a<b>&"' in page.text


def test_files_outside_the_run_stay_outside(run: Path) -> None:
    secret = run.parent / "secret.mp4"
    write_video(secret)
    path = run / "evaluations/epoch_40/results.json"
    results = json.loads(path.read_text())
    for episode in results["episodes"]:
        episode["video"] = "../../../secret.mp4"
    path.write_text(json.dumps(results))
    page = read(run)
    assert not any(tag == "video" for tag, _ in page.tags)


def test_first_batch_shows_images_and_broken_values(run: Path) -> None:
    rng = np.random.default_rng(0)
    state = rng.normal(size=(8, 3)).astype(np.float32)
    state[0, 0] = np.nan
    images = rng.random((8, 2, 3, 24, 32)).astype(np.float32)
    np.savez(run / "first_batch.npz", **{"observation.state": state, "observation.images.cam": images})
    page = read(run)
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) == 8
    assert all(str(picture["src"]).startswith("data:image/") for picture in pictures)
    assert any(tag == "td" and "alarm" in str(attrs.get("class")) for tag, attrs in page.tags)


def test_key_that_repeats_another_is_named_and_not_drawn_again(run: Path) -> None:
    state = np.random.default_rng(0).normal(size=(8, 2, 5))
    np.savez(run / "first_batch.npz", **{"observation.state": state, "observation.other": state})
    assert "The same values as observation.other." in read(run).text


def test_command_prints_the_page(run: Path) -> None:
    result = CliRunner().invoke(report_command, [str(run)])
    assert result.exit_code == 0
    verdict, page = result.output.strip().splitlines()
    assert "success rate" in verdict
    assert page == f"Report: {run / 'report.html'}"


@pytest.mark.parametrize("folder", ["absent", "empty"])
def test_command_refuses_what_is_no_run_in_one_sentence(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    result = CliRunner().invoke(report_command, [str(tmp_path / folder)])
    assert result.exit_code == 2
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1
    assert not list((tmp_path / "empty").iterdir())


def test_page_that_cannot_be_written_is_an_error(run: Path) -> None:
    with pytest.raises(ReportError, match="cannot be written"):
        build_report(run, run / "no such folder" / "page.html")


def test_a_folder_of_runs_is_answered_with_the_runs_in_it(tmp_path: Path) -> None:
    for name in ("second", "first"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{}", encoding="utf-8")
    with pytest.raises(
        ReportError, match=f"there are runs in it: {tmp_path / 'first'} {tmp_path / 'second'}$"
    ):
        build_report(tmp_path)
