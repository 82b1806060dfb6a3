"""What is said of the disk that checkpoints take is what they take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from trainer.cli import main
from trainer.config.loader import load_located
from trainer.engine import checkpoint_room as module
from trainer.engine.build_data import build_data
from trainer.engine.check import check
from trainer.engine.checkpoint_room import CheckpointRoom, checkpoint_room
from trainer.engine.outline import outline
from trainer.offline_trainer import train
from trainer.utils.text import count_short

Write = Callable[..., Path]


class LittleDisk:
    free = 700_000


def room_of(path: Path, *overrides: str) -> CheckpointRoom:
    checked = check(load_located(path, overrides))
    data = build_data(checked)
    sizes = {part.name: (part.parameters, part.trained) for part in outline(checked, data).parts}
    return checkpoint_room(checked.config, checked.run, data.steps_per_epoch, sizes)


def folders(run: Path) -> list[Path]:
    return [path for path in run.iterdir() if path.is_dir() and path.name.startswith(("epoch_", "step_"))]


CASES: list[tuple[list[str], int]] = [
    (["train.epoch=4"], 4),
    (["train.epoch=5", "train.save_every=2"], 3),
    (["train.epoch=5", "train.save_every=2", "train.checkpoint.save_last=false"], 2),
    (["train.epoch=null", "train.max_steps=18"], 2),
    (["train.epoch=4", "train.checkpoint.keep=2"], 2),
]


@pytest.mark.parametrize(("overrides", "count"), CASES)
def test_as_many_checkpoints_of_that_size_are_on_disk_at_the_end(
    tiny_experiment: Write, overrides: list[str], count: int
) -> None:
    path = tiny_experiment()
    told = room_of(path, *overrides)
    run = train(path, overrides)
    found = folders(run)
    assert len(found) == count
    # With `keep`, the newest is whole before the oldest goes.
    assert told.count == count + any("keep" in override for override in overrides)
    size = sum(file.stat().st_size for file in found[0].iterdir())
    assert told.size == pytest.approx(size, rel=0.15)
    assert told.needed == told.count * (told.size or 0)
    assert room_of(path, *overrides).needed == (told.count - count) * (told.size or 0)


def test_checkpoints_that_will_not_fit_are_told_before_training(
    tiny_experiment: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny_experiment(lambda config: config["train"].update(epoch=200))
    size = room_of(path).size
    assert size is not None
    monkeypatch.setattr(LittleDisk, "free", 4 * size + 1)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: LittleDisk)
    told = f"200 checkpoints of about {count_short(size)}B"
    output = CliRunner().invoke(main, ["check", str(path), "--no-prove"]).output
    assert told in output
    warning = next(line for line in output.splitlines() if line.startswith("Warning: the checkpoints"))
    assert "set train.checkpoint.keep to 3 or less" in warning
    # What it advises fits, and one more does not.
    assert room_of(path, "train.checkpoint.keep=3").warning() is None
    assert room_of(path, "train.checkpoint.keep=4").warning() is not None

    train(path, ["train.max_steps=5", "train.epoch=null"])
    said = capsys.readouterr().err
    assert "1 checkpoint of about" in said
    assert "will not fit" not in said
    monkeypatch.setattr(LittleDisk, "free", size // 2)
    assert "not even one fits" in str(room_of(path).warning())


def test_a_run_that_is_done_hears_of_no_disk_and_no_schedule(
    tiny_experiment: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny_experiment()
    train(path, ["train.epoch=3"])
    assert "3 checkpoints of about" in capsys.readouterr().err
    train(path, ["train.epoch=2"])  # a schedule that would end earlier, were there anything to train
    said = capsys.readouterr().err
    assert "is done already" in said
    assert "ends its schedule" not in said
    assert "checkpoints of about" not in said


def test_frozen_components_lie_on_disk_once(tiny_experiment: Write) -> None:
    def frozen(config: dict[str, Any]) -> None:
        config["model"]["component_build_args"] = {"observation_encoder": {"freeze": True}}
        config["model"]["component_optims"].pop("observation_encoder")

    whole, part = room_of(tiny_experiment()), room_of(tiny_experiment(frozen))
    assert whole.once == 0
    assert part.once > 0
    assert part.size is not None
    assert whole.size is not None
    assert part.size < whole.size
    assert part.needed == part.count * part.size + part.once
