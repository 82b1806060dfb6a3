"""Reading an experiment YAML."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.config.errors import ConfigLoadError
from trainer.config.loader import load_config, load_located
from trainer.config.paths import SHIPPED, find_input


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_later_defaults_win_over_earlier_ones_and_the_file_over_both(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "x: {one: 1, two: 1}\nlist: [1, 2]\n")
    write(tmp_path / "b.yaml", "x: {two: 2, three: 2}\n")
    main = write(
        tmp_path / "c.yaml", "defaults:\n- first: a.yaml\n- second: ./b.yaml\nx: {three: 3}\nlist: [9]\n"
    )
    assert load_config(main) == {"x": {"one": 1, "two": 2, "three": 3}, "list": [9]}


def test_every_value_knows_its_file_line_and_column_and_how_it_was_reached(tmp_path: Path) -> None:
    base = write(tmp_path / "base.yaml", "train:\n  epoch: 3\n  seed: 1\n")
    main = write(tmp_path / "main.yaml", "defaults:\n- base: base.yaml\ntrain:\n  seed: 2\n")
    located = load_located(main)
    epoch = located.locate(("train", "epoch"))
    assert epoch is not None
    assert (Path(epoch.file).name, epoch.line) == ("base.yaml", 2)
    assert [Path(f).name for f in located.chain(epoch)] == ["main.yaml", "base.yaml"]
    seed = located.locate(("train", "seed"))
    assert seed is not None
    assert (Path(seed.file).name, seed.line) == ("main.yaml", 4)
    assert base.exists()


def test_overrides_win_and_are_read_as_yaml(tmp_path: Path) -> None:
    main = write(tmp_path / "main.yaml", "train: {epoch: 3}\n")
    assert load_located(main, ["train.epoch=5", "data.names=[a, b]"]).data == {
        "train": {"epoch": 5},
        "data": {"names": ["a", "b"]},
    }


def test_overriding_a_param_reaches_what_is_interpolated_from_it(tmp_path: Path) -> None:
    main = write(tmp_path / "main.yaml", "params: {task: push}\nenv: 'metaworld/${params.task}'\n")
    assert load_located(main, ["params.task=reach"]).data["env"] == "metaworld/reach"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"m.yaml": "defaults:\n- a: gone.yaml\n"}, r"m\.yaml:2:\d+: config file not found: .*gone\.yaml"),
        ({"m.yaml": "defaults:\n- a: n.yaml\n", "n.yaml": "defaults:\n- b: m.yaml\n"}, "m.yaml -> n.yaml"),
        ({"m.yaml": "defaults: base.yaml\n"}, r"m\.yaml:1:\d+: 'defaults' must be a list"),
        ({"m.yaml": "defaults:\n- {a: b.yaml, c: d.yaml}\n"}, r"m\.yaml:2:3: an entry of 'defaults' must be"),
        ({"m.yaml": "defaults:\n- 3\n"}, r"m\.yaml:2:\d+: 'defaults' must be a list of paths.*, not 3"),
        ({"m.yaml": "defaults:\n- a: 3\n"}, r"m\.yaml:2:6: 'defaults' must be a list of paths.*, not 3"),
        ({"m.yaml": "- 1\n"}, r"m\.yaml:1:1: .*mapping"),
        ({"m.yaml": "a: [1\n"}, r"m\.yaml:2:1: "),
        ({"m.yaml": "a: 1\na: 2\n"}, r"m\.yaml:2:1: .*'a'"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said_with_its_place(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    for name, text in files.items():
        write(tmp_path / name, text)
    with pytest.raises(ConfigLoadError, match=message):
        load_config(tmp_path / "m.yaml")


def test_defaults_may_be_plain_paths_and_a_file_that_two_of_them_name_is_read_once(tmp_path: Path) -> None:
    write(tmp_path / "a0.yaml", "x: 1\n")
    for number in range(40):  # each names the one before it twice: 2^40 readings, were they not remembered
        name = f"a{number}.yaml"
        write(tmp_path / f"a{number + 1}.yaml", f"defaults: [{name}, {{again: {name}}}]\ny: {number}\n")
    assert load_config(tmp_path / "a40.yaml") == {"x": 1, "y": 39}


BASE = "train: {optimizer: {type: adamw, params: {lr: 1, warmup: {steps: 5, kind: cos}}}, callbacks: [a]}\n"


@pytest.mark.parametrize(
    ("own", "optimizer"),
    [
        ("{type: sgd, params: {warmup: null}}", {"type": "sgd", "params": {"lr": 1}}),
        ("{params: {warmup: {kind: null}}}", {"type": "adamw", "params": {"lr": 1, "warmup": {"steps": 5}}}),
        ("{type: sgd, params: null}", {"type": "sgd"}),
        ("{params: {_merge_: replace, _value_: {lr: null}}}", {"type": "adamw", "params": {"lr": None}}),
        ("null", None),
    ],
)  # fmt: skip
def test_inherited_parameters_can_be_taken_back_or_replaced(
    tmp_path: Path, own: str, optimizer: object
) -> None:
    write(tmp_path / "base.yaml", BASE)
    main = write(tmp_path / "main.yaml", f"defaults: [base.yaml]\ntrain: {{optimizer: {own}}}\n")
    assert load_config(main)["train"]["optimizer"] == optimizer


def test_lists_are_extended_by_the_words_of_the_model_language(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", BASE)
    text = "defaults: [base.yaml]\ntrain: {callbacks: {_merge_: append, _value_: [b]}}\n"
    assert load_config(write(tmp_path / "main.yaml", text))["train"]["callbacks"] == ["a", "b"]
    wrong = write(tmp_path / "wrong.yaml", "a: {_merge_: apend, _value_: []}\n")
    with pytest.raises(ConfigLoadError, match=r"wrong\.yaml:1:\d+: Invalid merge mode 'apend'; did you mean"):
        load_config(wrong)


def test_a_number_with_an_exponent_needs_no_point(tmp_path: Path) -> None:
    main = write(tmp_path / "main.yaml", "a: 1e-4\nb: -2E3\nc: '1e-4'\nd: 1e\ne: [.5e1, 1.e+2]\n")
    assert load_located(main, ["f=1e-3"]).data == {
        "a": 1e-4, "b": -2000.0, "c": "1e-4", "d": "1e", "e": [5.0, 100.0], "f": 1e-3
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("defaults: [/dev/zero]\n", "/dev/zero is a device or the like, not a config file"),
        ("defaults: [pipe]\n", r"pipe is a device or the like, not a config file"),
        ("defaults: [.]\n", r"main\.yaml:1:\d+: .* is a folder, not a config file"),
        (f"defaults: [{'x' * 300}.yaml]\n", "cannot be: File name too long"),
        ('defaults: ["a\\0b"]\n', r"main\.yaml:1:\d+: "),
        ("defaults: [~nobody-at-all/x]\n", "config file not found"),
        ("a: " + "[" * 200 + "]" * 200, r"main\.yaml:1:\d+: .*nested more than 100 levels"),
        ("\n".join(f"a{i}: '${{a{i + 1}}}${{a{i + 1}}}'" for i in range(60)) + "\na60: xx\n", "longer than"),
    ],
)  # fmt: skip
def test_extremes_are_answered_at_their_place(tmp_path: Path, text: str, message: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigLoadError, match=message):
        load_config(write(tmp_path / "main.yaml", text))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigLoadError, match=r"config file not found: nowhere\.yaml"):
        load_config("nowhere.yaml")


def test_the_config_room_does_not_need_torch() -> None:
    code = "import sys, trainer.config.loader, trainer.config.validation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_shipped_config_is_found_from_anywhere_unless_there_is_an_own_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "examples/configs/minimal.yaml"
    assert load_config(name)["train"]["project_name"] == "minimal"
    write(tmp_path / "own/experiment.yaml", f"defaults: [{{base: {name}}}]\ntrain: {{epoch: 3}}\n")
    assert load_config("own/experiment.yaml")["train"]["project_name"] == "minimal"
    write(tmp_path / "own" / name, "train: {project_name: own}\n")
    assert load_config("own/experiment.yaml")["train"]["project_name"] == "own"
    write(tmp_path / name, "train: {project_name: here}\n")
    assert load_config(name)["train"]["project_name"] == "here"


def test_what_a_config_names_is_looked_up_beside_it_in_its_project_and_among_what_is_shipped(
    tmp_path: Path,
) -> None:
    (tmp_path / "project/.git").mkdir(parents=True)
    config = tmp_path / "project/configs/experiment.yaml"
    write(config, "a: 1\n")
    model = "experiment_models/state_flow_matching/small/velocity_decoder.yaml"
    folders = load_located(config).search_paths(())
    assert find_input(model, folders) == SHIPPED / model
    for own in (tmp_path / "project" / model, config.parent / model):
        write(own, "{}\n")
        assert find_input(model, folders) == own


LIST = "train: {epoch: 3, callbacks: [{type: a, x: 1}, {type: b}]}\n"
A, B, C = {"type": "a", "x": 1}, {"type": "b"}, {"type": "c"}


@pytest.mark.parametrize(
    ("override", "train"),
    [
        ("train.callbacks[0].x=5", {"epoch": 3, "callbacks": [{"type": "a", "x": 5}, B]}),
        ("train.callbacks.1.type=c", {"epoch": 3, "callbacks": [A, C]}),
        ("train.callbacks=[{type: c}]", {"epoch": 3, "callbacks": [C]}),
        ("train.callbacks={_merge_: append, _value_: [{type: c}]}", {"epoch": 3, "callbacks": [A, B, C]}),
        ("train.epoch=null", {"epoch": None, "callbacks": [A, B]}),
        ("train={epoch: 4}", {"epoch": 4, "callbacks": [A, B]}),
    ],
)
def test_overrides_reach_into_lists_and_sections(tmp_path: Path, override: str, train: object) -> None:
    main = write(tmp_path / "main.yaml", LIST)
    assert load_located(main, [override]).data == {"train": train}


def test_a_key_with_a_dot_stands_in_quotes(tmp_path: Path) -> None:
    main = write(tmp_path / "main.yaml", "data: {normalization: {action: none}}\n")
    located = load_located(main, ['data.normalization."observation.state"=min_max'])
    assert located.data["data"]["normalization"] == {"action": "none", "observation.state": "min_max"}


def test_the_line_is_shown_with_the_place_marked(tmp_path: Path) -> None:
    main = write(tmp_path / "main.yaml", "train:\n\tepoch: 3\n")
    with pytest.raises(ConfigLoadError) as caught:
        load_config(main)
    assert str(caught.value).splitlines()[1:] == ["  2 | \tepoch: 3", "    | ^"]
    long = write(tmp_path / "long.yaml", f"a: {'x' * 300}\nb: [{'1, ' * 100}*gone]\n")
    with pytest.raises(ConfigLoadError) as caught:
        load_config(long)
    _, line, mark = str(caught.value).splitlines()
    assert len(line) < 110
    assert line[mark.index("^") :].startswith("*gone]")


def test_parameters_that_are_replaced_are_looked_at_as_they_come_out(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("params: {_merge_: replace, _value_: {a: 3, c: 4}}\nseed: ${params.a}\n")
    assert [one.error_message for one in load_located(path).unread] == [
        "nothing reads 'c', so it has no effect; what is read: a"
    ]
