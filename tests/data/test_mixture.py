from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from trainer.data.loader import BatchLoader
from trainer.data.mixture import MixtureDataset, Part
from trainer.data.mixture_columns import MixtureError
from trainer.data.normalization import Normalizer
from trainer.data.order import GlobalBatchSampler
from trainer.data.statistics import by_dataset, column_statistics

CAMERA = "observation.images.top"


class Columns(Dataset):
    """Samples of fixed columns, a whole batch at a time."""

    def __init__(self, length=20, state=3, action=2, horizon=4, seed=0, **more):
        generator = torch.Generator().manual_seed(seed)
        self.columns = {
            "observation.state": torch.randn(length, 2, state, generator=generator) * (seed + 1) + 10 * seed,
            "observation.state_is_pad": torch.zeros(length, 2, dtype=torch.bool),
            "action": torch.randn(length, horizon, action, generator=generator) + seed,
            "action_is_pad": torch.rand(length, horizon, generator=generator) < 0.3,
            "index": torch.arange(length),
            **more,
        }
        self.tasks = [f"task {seed}"] * length

    def __len__(self):
        return len(self.columns["index"])

    def __getitems__(self, indices):
        batch = {key: column[torch.as_tensor(indices)] for key, column in self.columns.items()}
        return {**batch, "task": [self.tasks[i] for i in indices]}

    def norm_stats(self):
        keys = [
            k for k in self.columns if k == "action" or (k.startswith("observation.") and "_is_pad" not in k)
        ]
        return {
            key: column_statistics(
                self.columns[key].reshape(-1, self.columns[key].shape[-1]).double().numpy()
            )
            for key in keys
            if key != CAMERA
        }

    def facts(self):
        lengths = {"min": 2, "mean": 5.0, "max": len(self)}
        return {
            "fps": 10,
            "episodes": len(self) // 5,
            "frames": len(self),
            "episode_lengths": lengths,
            "windows": {"action": [0, 1]},
            "features": {"action": {}},
            "tasks": self.tasks[:1],
        }


class OneByOne(Dataset):
    """The same, a sample at a time."""

    def __init__(self, of):
        self.of = of

    def __len__(self):
        return len(self.of)

    def __getitem__(self, i):
        return {key: value[0] for key, value in self.of.__getitems__([i]).items()}


def part(name, weight=1.0, **options):
    dataset = Columns(**options)
    return Part(name, dataset, weight, dataset.norm_stats())


def three(weights=(1.0, 1.0, 2.0)):
    sizes = (20, 7, 50)
    return [
        part(n, w, length=s, seed=i) for i, (n, w, s) in enumerate(zip("abc", weights, sizes, strict=True))
    ]


# Which samples


def test_an_epoch_gives_each_dataset_its_share():
    mixture = MixtureDataset(three())
    order = mixture.epoch_order(5, 0)
    assert len(mixture) == mixture.samples_per_epoch == len(order) == 77
    counts = Counter(np.searchsorted([0, 20, 27], order, side="right") - 1)
    # 19.25, 19.25 and 38.5 of 77: the largest remainder gets the sample that is left.
    assert [counts[i] for i in range(3)] == [19, 19, 39]
    assert [one["share"] for one in mixture.facts()["datasets"]] == [19 / 77, 19 / 77, 39 / 77]


@pytest.mark.parametrize("total", [5, 64, 1000])
def test_an_epoch_of_another_length(total):
    mixture = MixtureDataset(three(), samples_per_epoch=total)
    for epoch in range(3):
        order = mixture.epoch_order(5, epoch)
        assert len(order) == total
        assert order.min() >= 0
        assert order.max() < 77
    assert sum(one["samples_per_epoch"] for one in mixture.facts()["datasets"]) == total


def test_no_sample_comes_again_before_its_dataset_is_through():
    mixture = MixtureDataset(three(), samples_per_epoch=40)  # of 7 samples 10, of 50 20 in an epoch
    drawn = np.concatenate([mixture.epoch_order(5, epoch) for epoch in range(35)])
    for start, length in ((0, 20), (20, 7), (27, 50)):
        times = Counter(drawn[(drawn >= start) & (drawn < start + length)].tolist())
        assert len(times) == length
        assert max(times.values()) - min(times.values()) <= 1
    # Within an epoch the small dataset is gone through once before anything repeats.
    small = [row for row in mixture.epoch_order(5, 0) if 20 <= row < 27]
    assert sorted(Counter(small).values()) == [1, 1, 1, 1, 2, 2, 2]


def test_the_order_is_a_pure_function_of_seed_and_epoch():
    mixture = MixtureDataset(three())
    again = MixtureDataset(three())
    assert np.array_equal(mixture.epoch_order(5, 3), again.epoch_order(5, 3))
    assert not np.array_equal(mixture.epoch_order(5, 3), mixture.epoch_order(5, 4))
    assert not np.array_equal(mixture.epoch_order(5, 3), mixture.epoch_order(6, 3))


def test_datasets_of_equal_length_are_not_in_step():
    mixture = MixtureDataset([part("a", length=30), part("b", length=30)])
    order = mixture.epoch_order(0, 0)
    assert (order[order < 30] != order[order >= 30] - 30).any()


@pytest.mark.parametrize("workers", [0, 1])
def test_ranks_and_restarts_do_not_change_what_is_drawn(workers):
    def batches(batch_size, rank=0, ranks=1, start=0, num_workers=0):
        loader = BatchLoader(
            MixtureDataset(three()), batch_size=batch_size, rank=rank, world_size=ranks, seed=9,
            num_workers=num_workers,
        )  # fmt: skip
        return list(loader.epoch(2, start_step=start))

    whole = batches(8)
    assert len(whole) == 77 // 8
    for rank in range(2):
        for one, other in zip(whole, batches(4, rank, 2, num_workers=workers), strict=True):
            for key in ("index", "dataset_index", "action"):
                assert torch.equal(one[key][4 * rank : 4 * rank + 4], other[key])
    resumed = batches(8, start=5, num_workers=workers)
    assert all(torch.equal(a["index"], b["index"]) for a, b in zip(whole[5:], resumed, strict=True))


def test_a_sampler_uses_the_order_that_it_is_given():
    sampler = GlobalBatchSampler(6, 2, order=lambda seed, epoch: np.arange(6) * 10 + epoch, seed=1)
    assert [sampler.indices(3, step).tolist() for step in range(3)] == [[3, 13], [23, 33], [43, 53]]


def test_a_dataset_that_draws_by_itself_is_not_drawn_by_weight_as_well():
    drawn = Columns(length=9)
    drawn.epoch_order = lambda seed, epoch: np.zeros(9, np.int64)
    with pytest.raises(ValueError, match=r"'b' draws its samples by itself .* leave that to the mixture"):
        MixtureDataset([part("a"), Part("b", drawn)])


# What a batch holds


@pytest.mark.parametrize("wrap", [lambda d: d, OneByOne])
def test_samples_are_those_of_their_datasets(wrap):
    parts = three()
    mixture = MixtureDataset([Part(p.name, wrap(p.dataset), p.weight, p.norm_stats) for p in parts])
    rows = [30, 0, 21, 76, 5, 26, 27]
    batch = mixture.__getitems__(rows)
    assert batch["dataset_index"].tolist() == [2, 0, 1, 2, 0, 1, 2]
    for place, row in enumerate(rows):
        which = int(batch["dataset_index"][place])
        own = parts[which].dataset.__getitems__([row - (0, 20, 27)[which]])
        assert set(batch) == {*own, "dataset_index"}
        for key, value in own.items():
            assert (
                torch.equal(batch[key][place], value[0]) if key != "task" else batch[key][place] == value[0]
            )
    sample = mixture[-1]
    assert sample["index"] == 49
    assert sample["task"] == "task 2"
    with pytest.raises(IndexError):
        mixture[77]


def test_narrow_features_are_padded_and_flagged():
    parts = [part("narrow", length=10, state=3, action=2), part("wide", length=10, state=5, action=2, seed=1)]
    mixture = MixtureDataset(parts, pad=True)
    batch = mixture.__getitems__([3, 13])
    assert batch["observation.state"].shape == (2, 2, 5)
    assert torch.equal(batch["observation.state"][0, :, :3], parts[0].dataset.columns["observation.state"][3])
    assert not batch["observation.state"][0, :, 3:].any()
    assert torch.equal(batch["observation.state"][1], parts[1].dataset.columns["observation.state"][3])
    assert batch["observation.state_dim_is_pad"].tolist() == [[False] * 3 + [True] * 2, [False] * 5]
    # What is alike everywhere has no flags; a batch from one dataset alone looks the same.
    assert "action_dim_is_pad" not in batch
    alone = mixture.__getitems__([1, 2])
    assert list(alone) == list(batch)
    assert all(alone[key].shape == batch[key].shape for key in batch if key != "task")


def test_missing_features_are_zero_and_flagged():
    force = torch.randn(10, 2, 6) + 1
    flags = torch.zeros(10, 2, dtype=torch.bool)
    camera = torch.randint(1, 255, (10, 3, 4, 4), dtype=torch.uint8)
    more = {"observation.force": force, "observation.force_is_pad": flags, CAMERA: camera,
            f"{CAMERA}_is_pad": flags[:, :1]}  # fmt: skip
    mixture = MixtureDataset([part("plain", length=10), part("rich", length=10, seed=1, **more)], pad=True)
    batch = mixture.__getitems__([4, 14])
    assert not batch["observation.force"][0].any()
    assert torch.equal(batch["observation.force"][1], force[4])
    assert batch["observation.force_is_pad"].tolist() == [[True, True], [False, False]]
    assert batch["observation.force_dim_is_pad"].tolist() == [[True] * 6, [False] * 6]
    assert batch[CAMERA].dtype == torch.uint8
    assert not batch[CAMERA][0].any()
    assert torch.equal(batch[CAMERA][1], camera[4])
    assert batch[f"{CAMERA}_is_pad"].tolist() == [[True], [False]]
    assert f"{CAMERA}_dim_is_pad" not in batch


@pytest.mark.parametrize(
    ("other", "text", "fits"),
    [
        (
            {"state": 5},
            r"'observation.state' of a sample has shape \[2, 3\] in 'a' and \[2, 5\] in 'b'",
            True,
        ),
        ({"horizon": 6}, r"'action' of a sample has shape \[4, 2\] in 'a' and \[6, 2\] in 'b'", False),
        ({"extra": torch.zeros(20, 1)}, "'b' has 'extra', and 'a' has not", True),
    ],
)
def test_features_that_differ_are_refused(other, text, fits):
    parts = [part("a"), part("b", **other)]
    with pytest.raises(MixtureError, match=text) as caught:
        MixtureDataset(parts)
    assert caught.value.fits_padded is fits
    if fits:
        MixtureDataset(parts, pad=True)
    else:
        with pytest.raises(MixtureError, match=text):
            MixtureDataset(parts, pad=True)


def test_cameras_of_different_sizes_are_refused_even_with_padding():
    sizes = [{CAMERA: torch.zeros(20, 3, 8, width, dtype=torch.uint8)} for width in (8, 10)]
    with pytest.raises(MixtureError, match=r"\[3, 8, 8\] in 'a' and \[3, 8, 10\] in 'b'"):
        MixtureDataset([part("a", **sizes[0]), part("b", **sizes[1])], pad=True)


def test_a_text_here_and_a_number_there():
    with pytest.raises(MixtureError, match="'task' is of another kind in 'a' than in 'b'"):
        MixtureDataset([part("a"), Part("b", _NumberedTasks(), 1.0, None)], pad=True)


class _NumberedTasks(Columns):
    def __getitems__(self, indices):
        return {**super().__getitems__(indices), "task": torch.zeros(len(indices))}


@pytest.mark.parametrize(
    ("weights", "options", "text"),
    [
        ((1, 0, 1), {}, "the weight of 'b' is 0; it must be above 0"),
        ((1, float("nan"), 1), {}, "the weight of 'b' is nan"),
        ((1, 1e-6, 1), {}, "of 77 samples in an epoch, a weight of 1e-06 gives 'b' none"),
        ((1, 1, 1), {"samples_per_epoch": 2}, "of 2 samples in an epoch"),
    ],
)
def test_weights_that_make_no_sense(weights, options, text):
    with pytest.raises(ValueError, match=text):
        MixtureDataset(three(weights), **options)


def test_names_are_their_own():
    with pytest.raises(ValueError, match="names of their own, not a, a"):
        MixtureDataset([part("a"), part("a")])


# Statistics


def test_every_sample_is_normalized_by_its_own_dataset():
    mixture = MixtureDataset(three())
    normalizer = Normalizer(mixture.norm_stats(), {"action": "min_max"})
    assert normalizer.datasets == ("a", "b", "c")
    rows = [30, 0, 21, 76, 5, 26, 27]
    raw = mixture.__getitems__(rows)
    result = normalizer.normalize(raw)
    for place, which in enumerate(raw["dataset_index"].tolist()):
        own = Normalizer(mixture.parts[which].norm_stats, {"action": "min_max"})
        expected = own.normalize(
            {key: raw[key][place : place + 1] for key in ("observation.state", "action")}
        )
        for key, value in expected.items():
            assert torch.equal(result[key][place], value[0])


def test_padded_dimensions_stay_zero():
    parts = [part("narrow", state=3), part("wide", state=5, seed=1)]
    mixture = MixtureDataset(parts, pad=True)
    result = Normalizer(mixture.norm_stats()).normalize(mixture.__getitems__([0, 20]))
    assert not result["observation.state"][0, :, 3:].any()
    own = Normalizer(parts[0].norm_stats).normalize(parts[0].dataset.__getitems__([0]))
    assert torch.equal(result["observation.state"][0, :, :3], own["observation.state"][0])
    assert result["observation.state"][1].all()


@pytest.mark.parametrize("mode", ["mean_std", "min_max", "quantile", "none"])
def test_a_robot_has_the_statistics_of_one_dataset(mode):
    parts = [part("a", action=2, state=3), part("b", action=4, state=3, seed=1)]
    mixture = MixtureDataset(parts, pad=True)
    normalizer = Normalizer(mixture.norm_stats(), mode)
    batch = normalizer.normalize(mixture.__getitems__([7, 27]))
    for place, name in enumerate("ab"):
        robot = normalizer.for_dataset(name)
        measured = {"observation.state": parts[place].dataset.columns["observation.state"][7:8]}
        result = robot.normalize(measured)["observation.state"]
        assert torch.equal(result[0], batch["observation.state"][place])
        action = robot.denormalize("action", batch["action"][place : place + 1])
        torch.testing.assert_close(action, parts[place].dataset.columns["action"][7:8], rtol=1e-5, atol=1e-5)
    first = normalizer.for_dataset()
    assert first.denormalize("action", batch["action"][:1]).shape == (1, 4, 2)
    # It travels, as any normalizer.
    copy = Normalizer.from_dict(normalizer.for_dataset("b").to_dict())
    assert torch.equal(
        copy.denormalize("action", batch["action"]),
        normalizer.for_dataset("b").denormalize("action", batch["action"]),
    )


def test_a_robot_that_measures_less_than_the_policy_takes():
    force = {
        "observation.force": torch.randn(20, 2, 6),
        "observation.force_is_pad": torch.zeros(20, 2).bool(),
    }
    parts = [part("plain", state=3), part("rich", state=5, seed=1, **force)]
    mixture = MixtureDataset(parts, pad=True)
    normalizer = Normalizer(mixture.norm_stats())
    batch = normalizer.normalize(mixture.__getitems__([7, 27]))
    result = normalizer.for_dataset("plain").normalize(
        {"observation.state": parts[0].dataset.columns["observation.state"][7:8]}
    )
    for key in ("observation.state", "observation.force", "observation.proprio_state"):
        assert torch.equal(result[key][0], batch[key][0])
    # The rich robot has no force to be made up.
    assert "observation.force" not in normalizer.for_dataset("rich").normalize(
        {"observation.state": parts[1].dataset.columns["observation.state"][7:8]}
    )


def test_which_dataset_must_be_said():
    mixture = MixtureDataset(three())
    normalizer = Normalizer(mixture.norm_stats())
    with pytest.raises(ValueError, match="those of 3 datasets, and the batch has no 'dataset_index'"):
        normalizer.normalize({"action": torch.zeros(1, 4, 2)})
    with pytest.raises(ValueError, match="'action' has other units in each of a, b, c"):
        normalizer.denormalize("action", torch.zeros(1, 4, 2))
    with pytest.raises(ValueError, match="no dataset 'd' in these statistics; there are a, b, c"):
        normalizer.for_dataset("d")
    alone = Normalizer(three()[0].norm_stats)
    assert alone.for_dataset() is alone
    with pytest.raises(ValueError, match="they are of one, unnamed"):
        alone.for_dataset("a")


def test_modes_name_features_not_datasets():
    stats = MixtureDataset(three()).norm_stats()
    with pytest.raises(ValueError, match="'acton', which has no statistics; did you mean 'action'"):
        Normalizer(stats, {"acton": "none"})


def test_statistics_of_all_or_of_none():
    parts = three()
    bare = [Part(p.name, p.dataset, p.weight) for p in parts]
    assert MixtureDataset(bare).norm_stats() is None
    with pytest.raises(ValueError, match="'b' has no statistics, unlike 'a'"):
        MixtureDataset([parts[0], bare[1]]).norm_stats()
    with pytest.raises(ValueError, match="lie beside some without a dataset"):
        by_dataset({"a/action": 1, "action": 2})


# What is reported


def test_the_realised_share_of_a_batch():
    mixture = MixtureDataset(three())
    batch = mixture.__getitems__([30, 0, 21, 76])
    shares = {name: value.item() for name, value in mixture.batch_metrics(batch).items()}
    assert shares == {"share a": 0.25, "share b": 0.25, "share c": 0.5}


def test_facts_are_of_all_and_of_each():
    facts = MixtureDataset(three()).facts()
    assert (facts["repo_id"], facts["frames"], facts["episodes"]) == ("a + b + c", 77, 15)
    assert facts["episode_lengths"] == {"min": 2, "mean": 77 / 15, "max": 50}
    assert facts["tasks"] == ["task 0", "task 1", "task 2"]
    assert facts["windows"] == {"action": [0, 1]}
    small = facts["datasets"][1]
    assert (small["name"], small["weight"], small["frames"]) == ("b", 1.0, 7)
    assert small["passes_per_epoch"] == pytest.approx(19 / 7)
