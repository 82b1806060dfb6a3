"""Fixtures for every room: a small dataset, and a small experiment that trains on it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.tiny_experiment import decoder_yaml, encoder_yaml, experiment, write_dataset

os.environ.setdefault("WANDB_MODE", "disabled")


def pytest_configure(config: pytest.Config) -> None:
    """One thread: several test processes share two cores, and sums must not depend on their number."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def _forgotten_modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Forget what a file of tests imported from its temporary folders: the next may have one of that name."""
    yield
    folder = tmp_path_factory.getbasetemp()
    for name, module in list(sys.modules.items()):
        source = getattr(module, "__file__", None)
        if isinstance(source, str) and Path(source).is_relative_to(folder):
            del sys.modules[name]


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "follow")


@pytest.fixture
def tiny_experiment(tmp_path: Path, tiny_dataset: Path) -> Callable[..., Path]:
    """Return a function that writes an experiment, changed by `change(config)`, and returns its path."""

    def write(change: Callable[[dict[str, Any]], None] | None = None, name: str = "experiment") -> Path:
        models = tmp_path / "models"
        models.mkdir(exist_ok=True)
        (models / "observation_encoder.yaml").write_text(yaml.safe_dump(encoder_yaml(), sort_keys=False))
        (models / "velocity_decoder.yaml").write_text(yaml.safe_dump(decoder_yaml(), sort_keys=False))
        config = experiment(tmp_path / "run", tiny_dataset)
        if change is not None:
            change(config)
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        return path

    return write
