"""Every name that the user's document gives stands where it says."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from torch import nn

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("trainer.utils.device", "cast_dtype"),
        ("trainer.utils.device", "move_to_device"),
        ("trainer.utils.seed", "seed_worker"),
        ("trainer.utils.tree", "tree_map"),
        ("trainer.utils.selection", "select"),
        ("trainer.utils.import_utils", "import_module"),
        ("trainer.config.loader", "load_config"),
        ("trainer.config.validation", "validate_config"),
        ("trainer.config", "load_config"),
        ("trainer.config", "validate_config"),
        ("trainer", "load_config"),
        ("trainer", "validate_config"),
        ("trainer.config.schemas", "ExperimentConfig"),
        ("trainer.config.schemas", "ModelConfig"),
        ("trainer.config.schemas", "DataConfig"),
        ("trainer.config.schemas", "TrainConfig"),
        ("trainer.registry", "TRAINER_REGISTRY"),
        ("trainer.registry", "DATASET_BUILDER_REGISTRY"),
        ("trainer.registry", "OPTIMIZER_BUILDER_REGISTRY"),
        ("trainer.registry", "LOSS_BUILDER_REGISTRY"),
        ("trainer.registry.plugins", "load_plugins"),
        ("trainer.templates.dataset", "DatasetFactory"),
        ("trainer.templates.trainer", "Trainer"),
        ("trainer.templates.loss", "LossFactory"),
        ("trainer.templates.optim", "OptimizerFactory"),
        ("trainer.modeling.factories", "PolicyConstructorModelFactory"),
        ("trainer.online_trainer", "train_func"),
        ("model_constructor", "build_model"),
        ("model_constructor", "GraphModel"),
    ],
)
def test_a_name_can_be_imported(module: str, name: str) -> None:
    assert callable(getattr(importlib.import_module(module), name)) or name.endswith("_REGISTRY")


@pytest.mark.parametrize(
    "path",
    [
        *("pytest.ini", "env_setup.sh", "uv_setup.sh", "trainer/offline_trainer.py"),
        *("examples/configs/minimal.yaml", "examples/extensions/reaching_data.py"),
        *("policy_constructor/README.md", "policy_constructor/model_constructor/config"),
        *("experiment_training/imitation_learning", "experiment_training/components/dataloader"),
    ],
)
def test_a_file_is_where_the_document_has_it(path: str) -> None:
    assert (ROOT / path).exists()


def test_several_models_come_as_a_module_dict() -> None:
    from model_constructor import GraphModel

    from trainer.modeling.factories import PolicyConstructorModelFactory

    paths = sorted((ROOT / "examples/configs/minimal").glob("*.yaml"))
    built = PolicyConstructorModelFactory().build({path.stem: str(path) for path in paths})
    assert type(built) is nn.ModuleDict
    assert list(built) == [path.stem for path in paths]
    assert all(isinstance(model, GraphModel) for model in built.values())


def test_the_distribution_has_another_name_than_the_package() -> None:
    """Another project of the name `trainer` is in the registry."""
    text = (ROOT / "pyproject.toml").read_text()
    name = re.search(r'^name = "(.*)"', text, re.M)
    assert name is not None
    assert name[1] == "trainer-il"
    assert "pip install trainer\n" not in (ROOT / "README.md").read_text()
