"""Validation episodes, what is measured on them, and what follows from it."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.run_folder import metrics, weights
from helpers.tiny_experiment import STEPS_PER_EPOCH, fixed_schedule

from trainer.config.errors import ConfigError
from trainer.config.loader import load_located
from trainer.data.dataset import WindowedDataset
from trainer.data.errors import EpisodesError
from trainer.data.lerobot import LeRobotReader
from trainer.data.mixture import MixtureDataset, Part
from trainer.data.split import split_episodes
from trainer.data.windows import Window
from trainer.deployment.robot_policy import load_policy
from trainer.engine.build_data import build_data
from trainer.engine.callbacks import EarlyStopping
from trainer.engine.check import check
from trainer.engine.experiment import Experiment
from trainer.offline_trainer import train
from trainer.templates import Callback, Context
from trainer.utils.random import RowRandom

Write = Callable[..., Path]


def lines(run: Path, name: str = "validations.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def with_validation(config: dict[str, Any]) -> None:
    config["data"]["validation"] = {"episodes": [1, 4]}
    config["train"]["metrics"] = [{"type": "action_error", "params": {"norm": "mse"}}]
    config["train"]["epoch"] = 3


def test_no_episode_is_on_both_sides(tiny_dataset: Path) -> None:
    dataset = WindowedDataset(LeRobotReader(tiny_dataset), [Window("observation.state", (-1, 0))])
    train_data, held_out = split_episodes(dataset, seed=3, fraction=0.4)
    sides = [{int(side[i]["episode_index"]) for i in range(len(side))} for side in (train_data, held_out)]
    assert sides[0] | sides[1] == set(range(6))
    assert not sides[0] & sides[1]
    assert len(sides[1]) == 2
    again = split_episodes(dataset, seed=3, fraction=0.4)[1]
    assert np.array_equal(again.rows, held_out.rows)
    others = {tuple(split_episodes(dataset, seed=s, fraction=0.4)[1].rows) for s in range(8)}
    assert len(others) > 1, "another seed may choose other episodes"
    sample, whole = held_out[5], dataset[int(held_out.rows[5])]
    assert torch.equal(sample["observation.state"], whole["observation.state"])


def test_numbers_are_those_of_the_deployed_weights_on_the_held_out_samples(tiny_experiment: Write) -> None:
    run = train(tiny_experiment(with_validation))
    measured = lines(run)
    assert [line["epoch"] for line in measured] == [1, 2, 3]
    assert [line["step"] for line in measured] == [7, 14, 21]
    assert json.loads((run / "dataset.json").read_text())["episodes"] == 4

    facts = json.loads((run / "dataset.json").read_text())
    windows = [Window(k, tuple(o)) for k, o in facts["windows"].items()]
    dataset = WindowedDataset(LeRobotReader(Path(facts["root"])), windows, episodes=[1, 4])
    deployed = load_policy(run / "epoch_3", device="cpu")
    losses, errors = [], []
    start = int(np.random.SeedSequence([7, 0x7A11]).generate_state(1)[0])
    for first in range(0, 60, 20):  # other batches than those of the run: noise belongs to samples
        rows = np.arange(first, first + 20)
        batch = deployed.normalizer.normalize(dataset.__getitems__(rows))
        batch = {
            k: v.float() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in batch.items()
        }
        with torch.no_grad():
            loss = deployed.policy.loss(batch, Context(RowRandom(start + rows)))["total"]
            chunk = deployed.policy.predict_action(batch, Context(RowRandom(start + rows)))
        losses += [loss.item()] * len(rows)
        valid = ~batch["action_is_pad"]
        error = ((chunk - batch["action"]) ** 2).mean(-1)
        errors += ((error * valid).sum(1) / valid.sum(1)).tolist()
    assert measured[-1]["validation/total"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert measured[-1]["validation/action_error"] == pytest.approx(np.mean(errors), rel=1e-5)


def test_the_measure_is_said_while_the_run_goes_and_at_its_end(
    tiny_experiment: Write, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level("INFO"):
        run = train(tiny_experiment(with_validation), ["train.log_every_n_steps=2"])
    *_, before, last = lines(run)
    assert f"after epoch 3: validation/total {last['validation/total']:.4g}" in caplog.text
    assert caplog.text.count("On the validation episodes") == 1
    assert f"validation={before['validation/total']:.4f}" in capsys.readouterr().err


def test_measuring_does_not_change_the_training(tiny_experiment: Write, tmp_path: Path) -> None:
    def dropout(config: dict[str, Any]) -> None:
        with_validation(config)
        decoder = tmp_path / "models/velocity_decoder.yaml"
        decoder.write_text(decoder.read_text().replace("dropout: 0.0", "dropout: 0.2"))

    path = tiny_experiment(dropout)
    often = train(path, [f"train.save_dir={tmp_path / 'often'}"])
    seldom = train(path, [f"train.save_dir={tmp_path / 'seldom'}", "data.validation.every_n_epochs=3"])
    assert len(lines(seldom)) == 1
    assert [m["total"] for m in metrics(often)] == [m["total"] for m in metrics(seldom)]


def test_the_best_checkpoint_is_kept_and_deployed(tiny_experiment: Write) -> None:
    def change(config: dict[str, Any]) -> None:
        with_validation(config)
        config["train"]["epoch"] = 6
        config["train"]["checkpoint"] = {"keep": 1, "best": {"metric": "validation/total", "mode": "max"}}

    run = train(tiny_experiment(change))
    values = [line["validation/total"] for line in lines(run)]
    best = int(np.argmax(values)) + 1
    kept = {f"epoch_{best}", "epoch_6"}
    assert {p.name for p in run.glob("epoch_*")} == kept
    a, b = (load_policy(run / name, device="cpu").policy.state_dict() for name in ("best", f"epoch_{best}"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_run_that_no_longer_improves_ends_and_stays_ended(
    tiny_experiment: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(config: dict[str, Any]) -> None:
        with_validation(config)
        config["train"]["epoch"] = 30
        config["train"]["save_every"] = 10
        rule = {"metric": "validation/total", "mode": "min", "patience": 2, "min_delta": 100.0}
        config["train"]["callbacks"] = [{"type": "early_stopping", "params": rule}]

    path = tiny_experiment(change)
    run = train(path)
    assert len(metrics(run)) == 3 * 7
    assert (run / "latest").read_text() == "epoch_3\n"
    assert "Ended after 21 updates: validation/total has not improved" in capsys.readouterr().err
    before, facts = weights(run / "epoch_3"), (run / "run.json").read_text()
    train(path)
    assert (run / "run.json").read_text() == facts, "it has ended, and nothing more happened"
    assert len(metrics(run)) == 3 * 7
    assert all(torch.equal(v, before[k]) for k, v in weights(run / "epoch_3").items())


class NeverANumber(Callback):
    def measures(self) -> list[str]:
        return ["distance"]

    def after_epoch(self, experiment: Experiment) -> dict[str, float]:
        return {"distance": math.nan}


def test_a_run_whose_measure_is_never_a_number_ends_and_says_so(
    tiny_experiment: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    stopping = EarlyStopping(metric="distance", patience=2)
    run = train(tiny_experiment(), ["train.epoch=30"], callbacks=[NeverANumber(), stopping])
    assert len(metrics(run)) == 2 * STEPS_PER_EPOCH
    said = capsys.readouterr().err
    assert "Ended after 22 updates: distance was never a finite number in 2 measurements" in said
    assert "nothing measured" not in said


def test_validation_is_taken_up_where_it_was(tiny_experiment: Write, tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        with_validation(config)
        fixed_schedule(config)

    path = tiny_experiment(change)
    whole = train(path, [f"train.save_dir={tmp_path / 'whole'}"])
    parts = [f"train.save_dir={tmp_path / 'parts'}"]
    run = train(path, [*parts, "train.epoch=2", "train.checkpoint.save_last=true"])
    with (run / "validations.jsonl").open("a") as file:  # what a process measured before it was killed
        file.write('{"step": 21, "epoch": 3, "validation/total": 99.0}\n')
    fixed = ["train.epoch=3"]
    train(path, [*parts, *fixed])
    assert lines(run) == lines(whole)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"fraction": 0.5, "episodes": [1]}, "fraction says already which episodes are held out"),
        ({"episodes": [1, 17]}, "there is no episode 17; the data module has 0 to 5"),
        ({"episodes": "vaild"}, "no split of the dataset; its splits are train"),
        ({"episodes": []}, "no episode is chosen"),
        ({"episodes": [0, 1, 2, 3, 4, 5]}, "all 6 episodes are kept for validation"),
    ],
)
def test_what_cannot_be_split(tiny_experiment: Write, section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(tiny_experiment(lambda c: c["data"].update(validation=section)))


def with_splits(dataset: Path, copy: Path, **splits: list[int]) -> Path:
    """Return a copy of a dataset with splits as those that converted masks become."""
    shutil.copytree(dataset, copy)
    path = copy / "meta/info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "trainer": {"splits": splits}}))
    return copy


def test_splits_of_the_dataset_say_what_is_trained_and_validated(
    tiny_experiment: Write, tiny_dataset: Path, tmp_path: Path
) -> None:
    root = with_splits(tiny_dataset, tmp_path / "marked", train=[0, 2, 5], valid=[1, 4])

    def change(config: dict[str, Any]) -> None:
        with_validation(config)
        config["data"]["validation"]["episodes"] = "valid"
        config["data"]["datamodule"]["params"].update(root=str(root), episodes=["train", "valid"])

    data = build_data(check(load_located(tiny_experiment(change))))
    assert data.held_out is not None
    sides = [side.episode_index for side in (data.dataset, data.held_out)]
    assert [np.unique(side).tolist() for side in sides if side is not None] == [[0, 2, 5], [1, 4]]

    only = tiny_experiment(change)
    with pytest.raises(ConfigError, match=r"no episode 1 of the split 'valid'; the data module has 0, 2, 5"):
        build_data(check(load_located(only, ["data.datamodule.params.episodes=train"])))


def test_every_dataset_of_a_mixture_names_its_own_splits(tiny_dataset: Path, tmp_path: Path) -> None:
    first = with_splits(tiny_dataset, tmp_path / "first", valid=[2], test=[0])
    other = with_splits(tiny_dataset, tmp_path / "other", valid=[3, 4])
    windows = [Window("observation.state", (0,))]
    parts = [Part(n, WindowedDataset(LeRobotReader(r), windows)) for n, r in (("a", first), ("b", other))]
    _, held_out = split_episodes(MixtureDataset(parts), seed=0, episodes="valid")
    batch = held_out.__getitems__(np.arange(len(held_out)))
    pairs = zip(batch["dataset_index"].tolist(), batch["episode_index"].tolist(), strict=True)
    assert set(pairs) == {(0, 2), (1, 3), (1, 4)}
    with pytest.raises(EpisodesError, match=r"'b': 'test' is no episode number and no split .* train, valid"):
        split_episodes(MixtureDataset(parts), seed=0, episodes="test")


def test_every_dataset_of_a_mixture_gives_its_share(tiny_dataset: Path) -> None:
    def dataset() -> WindowedDataset:
        return WindowedDataset(LeRobotReader(tiny_dataset), [Window("observation.state", (0,))])

    mixture = MixtureDataset([Part("a", dataset(), 3.0), Part("b", dataset(), 1.0)], samples_per_epoch=240)
    train_data, held_out = split_episodes(mixture, seed=0, episodes=[2])
    assert isinstance(train_data, MixtureDataset)
    assert train_data.samples_per_epoch == 200
    order = train_data.epoch_order(0, 0)
    batch = train_data.__getitems__(order)
    assert np.bincount(batch["dataset_index"]).tolist() == [150, 50]
    assert 2 not in batch["episode_index"]
    assert len(held_out) == 60
    assert set(held_out.__getitems__(np.arange(60))["episode_index"].tolist()) == {2}
