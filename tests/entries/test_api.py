"""The functions of a notebook."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.run_folder import metrics

import trainer
from trainer import api
from trainer.config.errors import ConfigError, ConfigLoadError
from trainer.templates import Callback, Context, Policy
from trainer.utils.random import RowRandom

Write = Callable[..., Path]


def test_every_name_is_a_name_of_the_package() -> None:
    assert set(api.__all__) == set(trainer.__all__) - {"__version__"}
    assert all(getattr(trainer, name) is getattr(api, name) for name in api.__all__)


@pytest.mark.parametrize(
    "overrides",
    [["train.max_steps=3", "train.epoch=null"], {"train.max_steps": 3, "train.epoch": None}],
    ids=["texts", "mapping"],
)
def test_train_takes_overrides_and_callbacks(tiny_experiment: Write, overrides: object) -> None:
    class Count(Callback):
        steps = 0

        def after_step(self, experiment: object, metrics: object) -> None:
            self.steps += 1

    count = Count()
    run = trainer.train(tiny_experiment(), overrides, [count])
    assert (count.steps, len(metrics(run))) == (3, 3)


def test_load_config_takes_the_same_overrides(tiny_experiment: Write) -> None:
    path = tiny_experiment()
    assert trainer.load_config(path)["data"]["batch_size"] != 7
    given = {"data.batch_size": 7, "train.project_name": "a=b: c", "train.loggers": [], "params.rate": 1e-5}
    config = trainer.load_config(path, given)
    assert config["data"]["batch_size"] == 7
    assert config["train"]["project_name"] == "a=b: c"
    assert config["train"]["loggers"] == []
    assert config["params"]["rate"] == 1e-5
    odd = {"train.save_dir": Path("runs/here"), "data.batch_size": np.int64(7)}
    config = trainer.load_config(path, odd)
    assert (config["train"]["save_dir"], config["data"]["batch_size"]) == ("runs/here", 7)
    assert trainer.load_config(path, "data.batch_size=7")["data"]["batch_size"] == 7
    with pytest.raises(ConfigLoadError, match="or None, not a set"):
        trainer.load_config(path, {"train.loggers": {1, 2}})
    with pytest.raises(ConfigLoadError, match=r"must read `dotted\.path=value`"):
        trainer.load_config(path, ["data.batch_size"])


def test_a_dataset_alone(tiny_experiment: Write) -> None:
    path = tiny_experiment(lambda config: config["data"].update(validation={"episodes": [0]}))
    data = trainer.build_data(path)
    assert data.held_out is not None
    raw = data.dataset[0]["action"]
    batch = trainer.example_batch(path, samples=3)
    assert batch["action"].shape == (3, *raw.shape)
    stats = data.norm_stats["action"]
    expected = (raw.double() - torch.as_tensor(stats["mean"])) / torch.as_tensor(stats["std"])
    torch.testing.assert_close(batch["action"][0].double(), expected, rtol=1e-4, atol=1e-5)
    assert not (path.parent / "run").exists()


def test_models_and_policy_are_those_that_training_begins_with(tiny_experiment: Write) -> None:
    path = tiny_experiment()
    state = torch.random.get_rng_state()
    models = trainer.build_models(path)
    assert torch.equal(state, torch.random.get_rng_state())
    first = {}

    class Keep(Callback):
        def before_training(self, experiment: object) -> None:
            models = experiment.models  # type: ignore[attr-defined]
            first.update({n: {k: v.clone() for k, v in m.state_dict().items()} for n, m in models.items()})

    assert not (path.parent / "run").exists()
    trainer.train(path, {"train.max_steps": 3, "train.epoch": None}, [Keep()])
    assert list(models) == list(first)
    for name, model in models.items():
        for key, value in model.state_dict().items():
            assert torch.equal(value, first[name][key]), (name, key)


def test_a_policy_has_a_loss_and_acts(tiny_experiment: Write) -> None:
    path = tiny_experiment()
    policy, batch = trainer.build_policy(path), trainer.example_batch(path, samples=4)
    assert isinstance(policy, Policy)
    context = Context(RowRandom([0, 1, 2, 3]))
    loss = policy.loss(batch, context)["total"]
    loss.backward()
    assert loss.item() > 0
    assert all(p.grad is not None for p in policy.parameters() if p.requires_grad)
    assert policy.predict_action(batch, context).shape == batch["action"].shape


def test_a_trainer_without_policy_is_said_with_its_place(
    tiny_experiment: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.registry import TRAINER_REGISTRY

    path = tiny_experiment()
    kind = trainer.load_config(path)["train"]["trainer"]["type"]
    trainer.build_policy(path)  # the plugin is imported
    monkeypatch.delattr(TRAINER_REGISTRY.get(kind), "policy_class")
    with pytest.raises(ConfigError, match=rf"(?s)experiment\.yaml:\d+:\d+.*'{kind}' names no policy_class"):
        trainer.build_policy(path)


def test_evaluate_takes_a_run_folder_or_a_policy(tiny_experiment: Write) -> None:
    pytest.importorskip("gym_pusht")
    run = trainer.train(tiny_experiment(), {"train.max_steps": 3, "train.epoch": None})
    with pytest.raises(ValueError, match="of shape"):
        trainer.evaluate(run, "pusht", episodes=1)

    class Still:
        def reset(self, seeds: object = 0) -> None:
            self.robots = len(seeds)  # type: ignore[arg-type]

        def keep(self, rows: object) -> None:
            self.robots = len(rows)  # type: ignore[arg-type]

        def act(self, observation: object) -> np.ndarray:
            return np.full((self.robots, 2), 256.0, np.float32)

    result = trainer.evaluate(Still(), "pusht", episodes=2, max_steps=5, progress=False)
    assert (result.episodes, result.success_rate) == (2, 0.0)


def test_importing_the_package_imports_neither_torch_nor_the_api() -> None:
    code = "import sys, trainer; print([n for n in ('torch', 'pydantic', 'trainer.api') if n in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"


def test_data_is_shown_in_one_line(tiny_experiment: Write) -> None:
    data = trainer.build_data(tiny_experiment())
    assert repr(data) == "Data(180 samples; observation.state by mean_std, action by mean_std normalized)"
