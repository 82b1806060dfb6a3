from __future__ import annotations

import numpy as np
import pytest
import torch

import experiment_training.components.dataloader.lerobot_data  # noqa: F401  (registers a factory)
from experiment_training.components.dataloader.mixture import MIXTURE, MixtureDatasetParams
from trainer.config.errors import ParameterError
from trainer.data.batch_path import BatchPath
from trainer.data.lerobot import LeRobotWriter
from trainer.data.loader import BatchLoader
from trainer.data.normalization import Normalizer
from trainer.data.stats_file import load_stats, save_stats
from trainer.registry import DATASET_BUILDER_REGISTRY

LENGTHS = {"reach": (12, 8), "push": (30,)}


def write(root, lengths, state=3, seed=0, **more):
    features = {
        "observation.state": {"dtype": "float32", "shape": [state], "names": None},
        "action": {"dtype": "float32", "shape": [2], "names": None},
        **more,
    }
    rng = np.random.default_rng(seed)
    with LeRobotWriter(root, fps=10, features=features) as writer:
        for length in lengths:
            writer.add_episode(
                {
                    name: (10 * seed + rng.normal(size=(length, *entry["shape"]))).astype(np.float32)
                    for name, entry in features.items()
                },
                root.name,
            )
    return root


@pytest.fixture
def folders(tmp_path):
    return [write(tmp_path / name, lengths, seed=i) for i, (name, lengths) in enumerate(LENGTHS.items())]


def entry(root, weight=None, name=None, **params):
    found = {"type": "lerobot_dataset_factory", "params": {"root": str(root), "action_horizon": 4, **params}}
    return {
        **found,
        **({} if weight is None else {"weight": weight}),
        **({} if name is None else {"name": name}),
    }


def build(*datasets, **params):
    factory = DATASET_BUILDER_REGISTRY.get(MIXTURE)()
    options = {"local_rank": 0, "dist_enabled": False, "save_dir": None}
    return factory.build(options, params={"datasets": list(datasets), **params})


def test_a_mixture_of_lerobot_datasets(folders, tmp_path):
    built = build(entry(folders[0], 1), entry(folders[1], 3))
    mixture = built["dataset"]
    assert mixture.names == ("reach", "push")
    assert len(mixture) == 50
    facts = mixture.facts()
    assert [one["samples_per_epoch"] for one in facts["datasets"]] == [13, 37]
    assert (facts["episodes"], facts["frames"], facts["tasks"]) == (3, 50, ["reach", "push"])
    # The statistics go through their file, and normalize each sample by its own.
    save_stats(tmp_path / "dataset_stats.pkl", built["norm_stats"])
    normalizer = Normalizer(load_stats(tmp_path / "dataset_stats.pkl"))
    loader = BatchLoader(mixture, batch_size=10, seed=1, path=BatchPath(normalizer))
    batches = [batch for epoch in range(20) for batch in loader.epoch(epoch)]
    index = torch.cat([batch["dataset_index"] for batch in batches])
    assert index.float().mean().item() == pytest.approx(37 / 50, abs=0.02)
    state = torch.cat([batch["observation.state"] for batch in batches])
    for which in range(2):
        torch.testing.assert_close(state[index == which].mean(dim=(0, 1)), torch.zeros(3), rtol=0, atol=0.1)


def test_names(folders):
    built = build(entry(folders[0], repo_id="lab/reach"), entry(folders[1], name="second"))
    assert built["dataset"].names == ("lab/reach", "second")
    assert next(iter(built["norm_stats"])) == "lab/reach/observation.state"
    assert Normalizer(built["norm_stats"]).datasets == ("lab/reach", "second")
    with pytest.raises(ParameterError, match="there is a dataset 'reach' already") as caught:
        build(entry(folders[0]), entry(folders[0]))
    assert caught.value.param == "datasets.1"


def test_the_same_dataset_twice_with_other_episodes(folders):
    built = build(entry(folders[0], name="first", episodes=[0]), entry(folders[0], name="rest", episodes=[1]))
    assert len(built["dataset"]) == 20


def test_different_features(folders, tmp_path):
    wide = write(tmp_path / "wide", (10,), state=5, seed=2)
    with pytest.raises(
        ParameterError, match=r"\[1, 3\] in 'reach' and \[1, 5\] in 'wide'.*different_features: pad"
    ):
        build(entry(folders[0]), entry(wide))
    force = {"observation.force": {"dtype": "float32", "shape": [6], "names": None}}
    felt = write(tmp_path / "felt", (10,), seed=3, **force)
    with pytest.raises(ParameterError, match=r"'felt' has 'observation.force', and 'reach' has not"):
        build(entry(folders[0]), entry(felt))
    mixture = build(entry(folders[0]), entry(wide), entry(felt), different_features="pad")["dataset"]
    batch = mixture.__getitems__([0, 20, 30])
    assert batch["observation.state_dim_is_pad"].sum(dim=1).tolist() == [2, 0, 2]
    assert batch["observation.force_is_pad"].ravel().tolist() == [True, True, False]


def test_horizons_that_differ_cannot_be_padded(folders):
    with pytest.raises(
        ParameterError, match=r"'action' of a sample has shape \[4, 2\] in 'reach' and \[5, 2\]"
    ) as caught:
        build(entry(folders[0]), entry(folders[1], action_horizon=5), different_features="pad")
    assert caught.value.hint is None


@pytest.mark.parametrize(
    ("change", "param", "text"),
    [
        ({"type": "lerobot_dataset"}, "datasets.1.type", "did you mean 'lerobot_dataset_factory'"),
        ({"type": MIXTURE}, "datasets.1.type", "a mixture cannot hold mixtures"),
        ({"weigth": 2}, "datasets.1.weigth", "did you mean 'weight'"),
        ({"weight": 0}, "datasets.1.weight", "greater than 0"),
        ({"weight": "much"}, "datasets.1.weight", "valid number"),
        ({"params": {"rot": "x"}}, "datasets.1.params.rot", "did you mean 'root'"),
        ({"params": {"root": "/nowhere"}}, "datasets.1.params.root", "there is no dataset"),
        ({"name": ""}, "datasets.1.name", "at least 1 character"),
    ],
)
def test_a_mistake_is_placed_in_its_entry(folders, change, param, text):
    with pytest.raises(ParameterError, match=text) as caught:
        build(entry(folders[0]), {**entry(folders[1]), **change})
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"datasets": []}, "datasets"),
        ({"datasets": None}, "datasets"),
        ({"datasets": ["x"]}, "datasets.0"),
        ({"different_features": "drop"}, "different_features"),
        ({"samples_per_epoch": 0}, "samples_per_epoch"),
        ({"samples": 3}, "samples"),
        ({"task_name": 3}, "task_name"),
    ],
)
def test_parameters_that_make_no_sense(folders, params, param):
    factory = DATASET_BUILDER_REGISTRY.get(MIXTURE)()
    with pytest.raises(ParameterError) as caught:
        factory.build({}, params={"datasets": [entry(folders[0])], **params})
    assert caught.value.param == param


def test_a_dataset_without_its_share_and_one_without_samples_enough(folders):
    with pytest.raises(ParameterError, match="gives 'push' none"):
        build(entry(folders[0]), entry(folders[1], weight=1e-5))


def test_a_factory_that_gives_no_statistics(folders, monkeypatch):
    class Bare:
        def build(self, opt_params, params):
            return DATASET_BUILDER_REGISTRY.get("lerobot_dataset_factory")().build(opt_params, params)[
                "dataset"
            ]

    monkeypatch.setitem(DATASET_BUILDER_REGISTRY._entries, "bare", Bare)
    bare = [{**entry(folder), "type": "bare"} for folder in folders]
    assert build(*bare)["norm_stats"] is None
    with pytest.raises(ParameterError, match="'push' has no statistics, unlike 'reach'"):
        build(entry(folders[0]), bare[1])


def test_the_engine_finds_the_parameters():
    assert DATASET_BUILDER_REGISTRY.get(MIXTURE).parameters is MixtureDatasetParams
