from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from trainer.data.normalization import Normalizer
from trainer.data.statistics import column_statistics, normalization_statistics

RNG = np.random.default_rng(0)
STATE = (RNG.normal(size=(500, 3)) * [1.0, 50.0, 1e-3] + [0.0, 300.0, 2.0]).astype(np.float32)
ACTION = RNG.normal(size=(500, 2)).astype(np.float32)


def stats(**columns):
    return {key.replace("__", "."): column_statistics(column) for key, column in columns.items()}


def batch():
    return {
        "observation.state": torch.from_numpy(STATE[:8].reshape(4, 2, 3)),
        "observation.state_is_pad": torch.zeros(4, 2, dtype=torch.bool),
        "action": torch.from_numpy(ACTION[:12].reshape(4, 3, 2)),
        "timestamp": torch.arange(4.0),
        "index": torch.arange(4),
        "task": ["a"] * 4,
    }


def test_mean_and_standard_deviation():
    given = batch()
    result = Normalizer(stats(observation__state=STATE, action=ACTION)).normalize(given)
    for key, column in (("observation.state", STATE), ("action", ACTION)):
        wide = column.astype(np.float64)
        expected = (given[key].double() - torch.tensor(wide.mean(0))) / (torch.tensor(wide.std(0)) + 1e-8)
        assert result[key].dtype == torch.float32
        torch.testing.assert_close(result[key].double(), expected, rtol=0, atol=2e-4)
    # The batch that was given is untouched, and so is what has no statistics.
    assert torch.equal(given["action"], batch()["action"])
    assert torch.equal(result["timestamp"], torch.arange(4.0))
    assert result["task"] == ["a"] * 4


def test_the_formula_to_the_last_bit():
    s = stats(action=ACTION)
    result = Normalizer(s).normalize(batch())["action"]
    mean, std = (torch.from_numpy(s["action"][name]) for name in ("mean", "std"))
    assert torch.equal(result, (batch()["action"] - mean.float()) / (std + 1e-8).float())


@pytest.mark.parametrize("mode", ["min_max", "quantile"])
def test_ranges_become_minus_one_to_one(mode):
    low, high = ("min", "max") if mode == "min_max" else ("q01", "q99")
    s = stats(action=ACTION)
    ends = torch.tensor(np.stack([s["action"][low], s["action"][high]]), dtype=torch.float32)
    result = Normalizer(s, mode).normalize({"action": ends})["action"]
    torch.testing.assert_close(result, torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))


def by_numpy(x, column, mode):
    """Normalize number by number, from the column itself."""
    wide = column.reshape(-1, column.shape[-1]).astype(np.float64)
    if mode == "mean_std":
        centre, scale = wide.mean(0), wide.std(0)
    else:
        low, high = (0, 100) if mode == "min_max" else (1, 99)
        low, high = np.percentile(wide, low, axis=0), np.percentile(wide, high, axis=0)
        centre, scale = (low + high) / 2, (high - low) / 2
    result = np.zeros(x.shape)
    for i in range(x.shape[-1]):
        moves = wide[:, i].max() > wide[:, i].min()
        result[..., i] = (x[..., i] - centre[i]) / scale[i] if moves else 0.0
    return x if mode == "none" else result


@pytest.mark.parametrize("state_mode", ["mean_std", "min_max", "quantile", "none"])
@pytest.mark.parametrize("action_mode", ["mean_std", "min_max", "quantile", "none"])
def test_every_feature_has_its_own_mode(state_mode, action_mode):
    state = STATE.copy()
    state[:, 2] = 0.75  # a joint that never moved
    columns = {"observation.state": state, "action": ACTION}
    modes = {"observation.state": state_mode, "action": action_mode}
    normalizer = Normalizer({key: column_statistics(column) for key, column in columns.items()}, modes)
    given = {key: torch.from_numpy(column[:24].reshape(4, 6, -1)) for key, column in columns.items()}
    result = normalizer.normalize(given)
    for key, column in columns.items():
        expected = by_numpy(given[key].double().numpy(), column, modes[key])
        np.testing.assert_allclose(result[key].numpy(), expected, rtol=1e-4, atol=2e-4)
        np.testing.assert_allclose(normalizer.denormalize(key, result[key]), given[key], rtol=1e-5, atol=1e-5)


def test_flags_of_padding_pass_through():
    given = batch()
    given["action_is_pad"] = torch.rand(4, 3) < 0.5
    result = Normalizer(stats(observation__state=STATE, action=ACTION)).normalize(given)
    for key in ("action_is_pad", "observation.state_is_pad"):
        assert result[key] is given[key]


@pytest.mark.parametrize("modes", ["mean_std", "min_max", "quantile", "none", {"action": "none"}])
def test_there_and_back(modes):
    normalizer = Normalizer(stats(observation__state=STATE, action=ACTION), modes)
    given = batch()
    result = normalizer.normalize(given)
    for key in ("action", "observation.state"):
        back = normalizer.denormalize(key, result[key])
        assert back.dtype == torch.float32
        torch.testing.assert_close(back, given[key], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(normalizer.denormalize("other", given["action"]), given["action"])


def test_one_mode_for_a_feature_and_the_default_for_the_others():
    normalizer = Normalizer(stats(observation__state=STATE, action=ACTION), {"action": "none"})
    result = normalizer.normalize(batch())
    assert torch.equal(result["action"], batch()["action"])
    assert not torch.equal(result["observation.state"], batch()["observation.state"])


@pytest.mark.parametrize("mode", ["mean_std", "min_max", "quantile"])
@pytest.mark.parametrize("constant", [0.0, 0.1, -700.3])
def test_a_constant_dimension_becomes_zero_whatever_is_measured(mode, constant):
    column = np.stack([np.full(500, constant), RNG.normal(size=500)], axis=1).astype(np.float32)
    normalizer = Normalizer(stats(action=column), mode)
    seen = torch.tensor([[constant, 0.5], [constant + 1, 0.5], [-1e6, 0.5]])
    result = normalizer.normalize({"action": seen})["action"]
    assert result[:, 0].tolist() == [0, 0, 0]
    assert result[0, 1] != 0
    torch.testing.assert_close(normalizer.denormalize("action", result)[:, 0], torch.full((3,), constant))
    assert normalizer.denormalize("action", torch.ones(1, 2))[0, 0].item() == pytest.approx(constant)


def test_rounding_noise_on_a_constant_is_no_movement():
    noisy = (300 * (1 + 6e-8 * RNG.integers(-1, 2, (500, 1)))).astype(np.float32)
    assert (
        Normalizer(stats(action=noisy)).normalize({"action": torch.tensor([[300.001]])})["action"].item() == 0
    )


def test_a_rare_movement_survives_quantiles_that_coincide():
    column = np.zeros((1000, 1), np.float32)
    column[:5] = 1
    result = Normalizer(stats(action=column), "quantile").normalize({"action": torch.tensor([[0.0], [1.0]])})
    assert result["action"].ravel().tolist() == [-1, 1]


def test_images_are_left_alone():
    per_channel = {name: np.full((3, 1, 1), 0.5) for name in ("min", "max", "mean", "std")}
    plain = {name: np.full((3,), 0.5) for name in ("mean", "std")}
    given = {"observation.images.top": torch.rand(2, 3, 4, 4), "cam": torch.rand(2, 3, 4, 4)}
    result = Normalizer({"cam": per_channel, "observation.images.top": plain}).normalize(given)
    assert all(result[key] is given[key] for key in given)


def test_integers_and_bookkeeping_are_left_alone():
    s = stats(timestamp=np.arange(9.0), phase=np.arange(9))
    given = {"timestamp": torch.arange(3.0), "phase": torch.arange(3)}
    assert Normalizer(s).normalize(given) == given


def test_joint_state_alone_and_joined_with_the_currents():
    current = RNG.normal(size=(500, 2)).astype(np.float32)
    s = stats(observation__state=STATE, observation__current=current)
    given = {
        "observation.state": torch.from_numpy(STATE[:8].reshape(4, 2, 3)),
        "observation.current": torch.from_numpy(current[:8].reshape(4, 2, 2)),
    }
    result = Normalizer(s).normalize(given)
    assert result["observation.proprio_state"].shape == (4, 2, 3)
    assert result["observation.state"].shape == (4, 2, 5)
    assert torch.equal(result["observation.state"][..., :3], result["observation.proprio_state"])
    assert torch.equal(result["observation.state"][..., 3:], result["observation.current"])
    torch.testing.assert_close(
        result["observation.current"],
        torch.from_numpy((current[:8].reshape(4, 2, 2) - current.mean(0)) / current.std(0)),
        rtol=1e-4,
        atol=1e-4,
    )
    # Without currents the state stays as it is, and the copy is one of its own.
    alone = Normalizer(s).normalize({"observation.state": given["observation.state"]})
    assert torch.equal(alone["observation.state"], alone["observation.proprio_state"])
    alone["observation.proprio_state"].zero_()
    assert alone["observation.state"].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_a_robot_measures_is_normalized_alike(dtype):
    normalizer = Normalizer(stats(observation__state=STATE, action=ACTION))
    measured = {"observation.state": STATE[:1].astype(dtype), "camera": np.zeros((1, 4, 4, 3), np.uint8)}
    result = normalizer.normalize_observation(measured)
    expected = normalizer.normalize({"observation.state": torch.from_numpy(STATE[:1])})
    assert torch.equal(result["observation.state"], expected["observation.state"])
    assert torch.equal(result["observation.proprio_state"], expected["observation.state"])
    assert result["camera"].dtype == torch.uint8


def test_a_copy_from_plain_values():
    normalizer = Normalizer(stats(observation__state=STATE, action=ACTION), {"action": "min_max"})
    copy = Normalizer.from_dict(pickle.loads(pickle.dumps(normalizer.to_dict())))
    assert torch.equal(copy.normalize(batch())["action"], normalizer.normalize(batch())["action"])


@pytest.mark.parametrize(
    ("modes", "text"),
    [
        ("min-max", r"'min-max' is no normalization of 'action'; did you mean 'min_max'"),
        (
            {"action": "x"},
            r"'x' is no normalization of 'action'; there are mean_std, min_max, quantile, none",
        ),
        ({"acton": "none"}, r"'acton', which has no statistics; did you mean 'action'"),
    ],
)
def test_modes_that_make_no_sense(modes, text):
    with pytest.raises(ValueError, match=text):
        Normalizer(stats(action=ACTION), modes)


def test_statistics_that_a_mode_needs():
    with pytest.raises(ValueError, match="'action' have no 'q01', which its normalization 'quantile' needs"):
        Normalizer({"action": {name: np.ones(2) for name in ("mean", "std", "min", "max")}}, "quantile")


def stored(offset, step, dtype, length=400):
    """A walk beside an offset, and what numpy makes of it in float64."""
    column = (offset + np.cumsum(np.random.default_rng(3).normal(0, step, (length, 1)), axis=0)).astype(dtype)
    return column, column.astype(np.float64)


@pytest.mark.parametrize("mode", ["mean_std", "min_max", "quantile"])
@pytest.mark.parametrize(
    ("offset", "step", "dtype"),
    [
        (500_000, 0.02, np.float64),  # metres on a map
        (5_200_000, 0.1, np.float64),
        (47.1234567, 1e-5, np.float64),  # degrees
        (1.7e9, 0.1, np.float64),  # seconds since 1970
        (500_000, 0.1, np.float32),
        (47.1234567, 1e-5, np.float32),
        (-300, 0.5, np.float32),
        (20, 0.1, np.float16),
    ],
)
def test_what_moves_little_beside_a_large_offset_is_normalized(mode, offset, step, dtype):
    column, wide = stored(offset, step, dtype)
    normalizer = Normalizer({"observation.gps": normalization_statistics(column)}, mode)
    result = normalizer.normalize({"observation.gps": torch.from_numpy(column)})["observation.gps"]
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.numpy(), by_numpy(wide, wide, mode), atol=2e-3)
    back = normalizer.denormalize("observation.gps", result)
    np.testing.assert_allclose(back.double(), wide, rtol=0, atol=2e-3 * wide.std() + np.spacing(column).max())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("mode", ["mean_std", "min_max", "quantile"])
def test_the_last_bit_of_what_is_stored_is_no_movement(mode, dtype):
    column = np.full((300, 1), 300, dtype)
    column[::3] = np.nextafter(dtype(300), dtype(400))
    normalizer = Normalizer({"action": normalization_statistics(column)}, mode)
    seen = torch.from_numpy(column[:6] + dtype(1))
    assert not normalizer.normalize({"action": seen})["action"].any()


def test_integers_are_mapped_where_they_are_named():
    column = RNG.integers(0, 200, (300, 2))
    s = {"observation.mode": normalization_statistics(column)}
    given = {"observation.mode": torch.from_numpy(column)}
    for modes in ("min_max", {}):
        normalizer = Normalizer(s, modes)
        assert normalizer.normalize(given)["observation.mode"] is given["observation.mode"]
        # What a network predicts of them is not mapped back either.
        assert normalizer.denormalize("observation.mode", torch.ones(1, 2)).tolist() == [[1, 1]]
        assert normalizer.modes == {}
    named = Normalizer(s, {"observation.mode": "min_max"})
    result = named.normalize(given)["observation.mode"]
    np.testing.assert_allclose(result.numpy(), by_numpy(column, column, "min_max"), atol=1e-6)
    assert named.modes == {"observation.mode": "min_max"}


@pytest.mark.parametrize("modes", ["mean_std", {"observation.image_embedding": "min_max"}])
@pytest.mark.parametrize("shape", [(4,), (3, 2)])
def test_a_vector_is_no_picture_whatever_its_name(modes, shape):
    column = (RNG.normal(size=(60, *shape)) * 50 + 100).astype(np.float32)
    normalizer = Normalizer({"observation.image_embedding": normalization_statistics(column)}, modes)
    given = torch.from_numpy(column[:, None])  # a window of one step
    result = normalizer.normalize({"observation.image_embedding": given})["observation.image_embedding"]
    mode = modes if isinstance(modes, str) else "min_max"
    expected = by_numpy(column.reshape(60, -1), column.reshape(60, -1), mode)
    np.testing.assert_allclose(result.reshape(60, -1).numpy(), expected, atol=1e-4)


def test_statistics_without_a_resolution_are_read_as_they_always_were():
    """A policy that was trained on them saw zeros where it now would see a movement."""
    column, _ = stored(500_000, 0.02, np.float64)
    old = Normalizer({"observation.gps": column_statistics(column)})
    assert not old.normalize({"observation.gps": torch.from_numpy(column)})["observation.gps"].any()
