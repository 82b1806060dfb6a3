"""Reading an experiment YAML."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trainer.config.errors import ConfigLoadError
from trainer.config.loader import load_config, load_located


def write(path: Path, text: str) -> Path:
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
        ({"m.yaml": "defaults: base.yaml\n"}, r"m\.yaml:1:\d+: defaults must be a list"),
        ({"m.yaml": "defaults:\n- {a: b.yaml, c: d.yaml}\n"}, r"m\.yaml:2:\d+: an entry of defaults must be"),
        ({"m.yaml": "defaults:\n- 3\n"}, r"m\.yaml:2:\d+: the path of a defaults entry must be text"),
        ({"m.yaml": "defaults:\n- a: 3\n"}, r"m\.yaml:2:\d+: the path of defaults entry 'a' must be text"),
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


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigLoadError, match=r"config file not found: nowhere\.yaml"):
        load_config("nowhere.yaml")


def test_the_config_room_does_not_need_torch() -> None:
    code = "import sys, trainer.config.loader, trainer.config.validation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
