"""Policies of every family learn online with nothing but the `online` section added to their experiment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import helpers.online_robots  # noqa: F401  # registers the simulators
import numpy as np
import pytest
import yaml
from helpers import camera_families
from helpers.actors import LocalRun
from helpers.policies import CASES, losses_of, write_films

from trainer.data.lerobot import LeRobotReader

pytestmark = pytest.mark.slow


def shipped(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        if CASES[name].name == "diffusion_policy":
            pytest.importorskip("diffusers")
        path = CASES[name].write(folder, write_films(folder / "films"))
        return with_robots(path, yaml.safe_load(path.read_text()), "painter/24", 24)

    return write


def seeing(key: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        if camera_families.FAMILIES[key][-1]:
            pytest.importorskip("geomloss")
        demonstrations = camera_families.write_dataset(folder / "set")
        config = camera_families.experiment(key, folder / "run", demonstrations)
        return with_robots(folder / "experiment.yaml", config, "wanderer", 44)

    return write


def with_robots(path: Path, config: dict[str, Any], env: str, steps: int) -> Path:
    """Write an experiment that has an `online` section too, and return its path.

    Learner and robots keep pace: about 1.4 updates for two episodes of so many steps.
    """
    config["online"] = {
        "offline_steps": 2,
        "workers": {"env": env, "envs": 2},
        "update_ratio": 0.7 / steps,
        "update_slack": 1,
        "publish": {"every_n_steps": 2},
    }
    config["train"] |= {"max_steps": 10, "save_dir": str(path.parent / "run"), "loggers": []}
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


FAMILIES = {name: shipped(name) for name in CASES} | {
    key.removesuffix("_trainer"): seeing(key)
    for key in (
        "naive_flow_matching_policy_trainer",
        "vfp_single_expert_trainer",
        "variational_flow_matching_policy_trainer",
        "cfg_vqvae_flow_matching_trainer_kot",
    )
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_learns_online(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    online = LocalRun(FAMILIES[family](tmp_path))
    online.train(monkeypatch)
    losses = losses_of(online.run)
    assert len(losses) == 10
    assert np.isfinite(losses).all()
    counts = online.replay.counts()
    assert counts.episodes >= 2
    assert online.manager.version() == 5  # after 2, 4, 6, 8 and 10 updates
    assert max(counts.versions) > 1, "robots take up newer weights"
    written = LeRobotReader(online.run / "online/dataset")
    assert len(written.episodes.length) == counts.episodes
