from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from pydantic import ValidationError

from trainer.config.augmentation import AugmentationConfig
from trainer.data.augmentation import Augmentation, transforms
from trainer.data.images import scale_images
from trainer.data.normalization import Normalizer
from trainer.data.statistics import column_statistics
from trainer.utils.random import AUGMENTATION, SampleRandom

HEAD, HAND = "observation.images.head", "observation.images.hand"
TYPO = "observation.sate"


def pictures(batch=3, frames=2, size=(8, 10), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, frames, 3, *size), dtype=torch.uint8, generator=generator)


def as_float(x):
    return x.float() / 255


def each_frame(x):
    """Yield sample, frame and picture `(H, W, C)` as numpy."""
    for b in range(x.shape[0]):
        for f in range(x.shape[1]):
            yield b, f, x[b, f].permute(1, 2, 0).numpy()


def check_against_pil(change, enhancer, factors):
    x = pictures()
    result = change(as_float(x), torch.tensor(factors))
    for b, f, picture in each_frame(x):
        expected = np.asarray(enhancer(Image.fromarray(picture)).enhance(factors[b]), np.float32) / 255
        ours = result[b, f].permute(1, 2, 0).numpy()
        # PIL keeps greys and results as whole numbers of 255.
        assert np.abs(ours - expected).max() <= 2.5 / 255 * max(1.0, *factors)


def test_brightness_is_that_of_pil():
    check_against_pil(transforms.scale_brightness, ImageEnhance.Brightness, [0.8, 1.3, 0.0])


def test_contrast_is_that_of_pil():
    check_against_pil(transforms.scale_contrast, ImageEnhance.Contrast, [0.7, 1.4, 0.0])


def test_saturation_is_that_of_pil():
    check_against_pil(transforms.scale_saturation, ImageEnhance.Color, [0.7, 1.4, 0.0])


def test_hue_turns_as_in_the_hsv_model():
    x = as_float(pictures(size=(5, 6)))
    x[0, 0, :, 0, 0] = 0.5  # grey
    x[1, 1, :, 2, 3] = torch.tensor([1.0, 0.0, 0.0])
    turns = [0.1, -0.37, 0.5]
    result = transforms.shift_hue(x, torch.tensor(turns))
    for b, f, picture in each_frame(x):
        for i in range(picture.shape[0]):
            for j in range(picture.shape[1]):
                h, s, v = colorsys.rgb_to_hsv(*picture[i, j].tolist())
                expected = colorsys.hsv_to_rgb((h + turns[b]) % 1.0, s, v)
                assert result[b, f, :, i, j].tolist() == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("kernel", [3, 5])
def test_blur_is_a_convolution_with_a_gaussian(kernel):
    x = as_float(pictures())
    sigmas = [0.1, 0.9, 2.0]
    result = transforms.blur(x, torch.tensor(sigmas), kernel)
    half = kernel // 2
    offsets = np.arange(-half, half + 1)
    for b, f, picture in each_frame(x):
        weights = np.exp(-(offsets**2) / (2 * sigmas[b] ** 2))
        kernel_2d = np.outer(weights, weights) / weights.sum() ** 2
        padded = np.pad(picture, ((half, half), (half, half), (0, 0)), mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(0, 1))
        expected = np.einsum("hwckl,kl->hwc", windows, kernel_2d)
        np.testing.assert_allclose(result[b, f].permute(1, 2, 0).numpy(), expected, atol=1e-6)


def test_a_picture_smaller_than_the_blur():
    with pytest.raises(ValueError, match="a picture of 2×9 pixels is too small for a blur of 5"):
        transforms.blur(torch.rand(1, 1, 3, 2, 9), torch.ones(1), 5)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_shift_is_a_crop_of_the_padded_picture(dtype):
    x = pictures().to(dtype)
    down, right = [3, -2, 0], [-1, 4, 0]
    result = transforms.shift(x, torch.tensor(down), torch.tensor(right))
    assert result.dtype == dtype
    for b, f, picture in each_frame(x):
        padded = np.pad(picture, ((4, 4), (4, 4), (0, 0)), mode="edge")
        top, left = 4 - down[b], 4 - right[b]
        expected = padded[top : top + 8, left : left + 10]
        assert np.array_equal(result[b, f].permute(1, 2, 0).numpy(), expected)


EVERYTHING = AugmentationConfig.model_validate(
    {"random_shift": {"pixels": 2}, "observation_noise": {"observation.state": 0.1}}
)


def batch(size=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "observation.state": torch.randn(size, 2, 3, generator=generator),
        "observation.state_is_pad": torch.zeros(size, 2, dtype=torch.bool),
        HEAD: pictures(size, 2, seed=seed),
        f"{HEAD}_is_pad": torch.zeros(size, 2, dtype=torch.bool),
        HAND: as_float(pictures(size, 1, (6, 6), seed=seed + 1))[:, 0],
        "action": torch.randn(size, 5, 2, generator=generator),
        "task": ["push"] * size,
    }


def draws(step=0, rank=0, ranks=1):
    return SampleRandom(3, step, rank, ranks, stream=AUGMENTATION)


def test_what_changes_and_what_does_not():
    given, before = batch(), batch()
    result = Augmentation(EVERYTHING)(given, draws())
    for key, value in before.items():
        assert given[key] == value if key == "task" else torch.equal(given[key], value)
    assert list(result) == list(given)
    assert result[HEAD].dtype == torch.float32
    assert result[HEAD].shape == given[HEAD].shape
    assert result[HAND].shape == given[HAND].shape
    assert 0 <= result[HEAD].min() < result[HEAD].max() <= 1
    for key in (HEAD, HAND, "observation.state"):
        assert all(not torch.equal(a, b) for a, b in zip(result[key], given[key], strict=True))
    for key in ("action", "observation.state_is_pad", f"{HEAD}_is_pad"):
        assert torch.equal(result[key], given[key])
    assert result["task"] == given["task"]


def test_bytes_and_floats_are_augmented_alike():
    given = batch()
    as_floats = scale_images(given)
    first, second = (Augmentation(EVERYTHING)(one, draws()) for one in (given, as_floats))
    torch.testing.assert_close(first[HEAD], second[HEAD], rtol=0, atol=1e-6)


def test_frames_of_a_history_are_changed_alike_and_samples_are_not():
    still = pictures(1, 1).expand(6, 4, -1, -1, -1)
    result = Augmentation(EVERYTHING)({HEAD: still}, draws())[HEAD]
    assert all(torch.equal(result[:, 0], result[:, f]) for f in range(1, 4))
    assert len({tuple(sample.ravel().tolist()) for sample in result[:, 0]}) == 6


def test_cameras_each_or_together():
    x = pictures()
    given = {HEAD: x, HAND: x}
    each = Augmentation(EVERYTHING)(given, draws())
    assert not torch.equal(each[HEAD], each[HAND])
    config = EVERYTHING.model_copy(update={"cameras": "together"})
    together = Augmentation(config)(given, draws())
    assert torch.equal(together[HEAD], together[HAND])


def test_the_global_generators_have_no_say_and_are_left_alone():
    torch.manual_seed(0)
    first = Augmentation(EVERYTHING)(batch(), draws())
    torch.manual_seed(1)
    state = torch.get_rng_state()
    second = Augmentation(EVERYTHING)(batch(), draws())
    assert torch.equal(torch.get_rng_state(), state)
    other_step = Augmentation(EVERYTHING)(batch(), draws(step=1))
    for key in (HEAD, HAND, "observation.state"):
        assert torch.equal(first[key], second[key])
        assert not torch.equal(first[key], other_step[key])


def test_ranks_share_one_global_batch():
    given = batch(6)
    whole = Augmentation(EVERYTHING)(given, draws(step=4))
    for rank in range(3):
        rows = slice(2 * rank, 2 * rank + 2)
        part = Augmentation(EVERYTHING)({k: v[rows] for k, v in given.items()}, draws(4, rank, 3))
        for key in (HEAD, HAND, "observation.state"):
            torch.testing.assert_close(part[key], whole[key][rows], rtol=0, atol=1e-6)


def test_the_order_of_the_jitter_varies_between_steps():
    orders = set()
    for step in range(40):
        random = draws(step)
        random.uniform((1, 7))
        orders.add(tuple(random.permutation(4)))
    assert len(orders) > 10


def test_amounts_cover_their_range(monkeypatch):
    seen: dict[str, list[torch.Tensor]] = {}
    for name in ("scale_brightness", "scale_contrast", "scale_saturation", "shift_hue", "blur", "shift"):
        original = getattr(transforms, name)

        def spy(x, *amounts, _name=name, _original=original):
            seen.setdefault(_name, []).append(torch.stack([a for a in amounts if torch.is_tensor(a)]))
            return _original(x, *amounts)

        monkeypatch.setattr(transforms, name, spy)
    x = torch.full((2000, 1, 3, 2, 2), 0.5)
    Augmentation(EVERYTHING)({HEAD: x}, draws())
    ranges = {
        "scale_brightness": (0.8, 1.2), "scale_contrast": (0.8, 1.2), "scale_saturation": (0.8, 1.2),
        "shift_hue": (-0.1, 0.1), "blur": (0.1, 2.0),
    }  # fmt: skip
    for name, (low, high) in ranges.items():
        (values,) = seen[name]
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() <= high
    for values in seen["shift"][0]:
        assert sorted(set(values.tolist())) == [-2, -1, 0, 1, 2]
        assert values.dtype == torch.int64
        assert np.bincount(values.numpy() + 2).min() > 300


def test_a_camera_of_one_channel_is_only_shifted():
    depth = torch.randint(0, 5000, (3, 2, 1, 6, 6)).to(torch.int32)
    result = Augmentation(EVERYTHING)({"observation.images.depth": depth}, draws())[
        "observation.images.depth"
    ]
    assert result.dtype == torch.int32
    assert set(result.ravel().tolist()) <= set(depth.ravel().tolist())
    no_shift = Augmentation(AugmentationConfig())({"observation.images.depth": depth}, draws())
    assert torch.equal(no_shift["observation.images.depth"], depth)


def test_a_camera_with_another_name():
    given = {"observation.wrist": pictures()}
    assert torch.equal(
        Augmentation(AugmentationConfig())(given, draws())["observation.wrist"], given["observation.wrist"]
    )
    changed = Augmentation(AugmentationConfig(), ["observation.wrist"])(given, draws())["observation.wrist"]
    assert changed.dtype == torch.float32


def test_what_is_off_does_nothing_and_moves_no_other_draw():
    off = AugmentationConfig(color_jitter=None, gaussian_blur=None)
    given = batch()
    result = Augmentation(off)(given, draws())
    torch.testing.assert_close(result[HEAD], as_float(given[HEAD]))
    shifted = AugmentationConfig.model_validate(
        {"color_jitter": None, "gaussian_blur": None, "random_shift": {"pixels": 2}}
    )
    jittered_too = shifted.model_copy(update={"gaussian_blur": AugmentationConfig().gaussian_blur})
    alone = Augmentation(shifted)(given, draws())[HEAD]
    sigma = SampleRandom(3, 0, stream=AUGMENTATION).uniform((4, 7))[:, 6] * 1.9 + 0.1
    expected = transforms.blur(alone, sigma, 3)
    torch.testing.assert_close(Augmentation(jittered_too)(given, draws())[HEAD], expected)


def test_noise_on_observations():
    config = AugmentationConfig(color_jitter=None, gaussian_blur=None, observation_noise=0.25)
    given = {
        "observation.state": torch.zeros(500, 2, 3),
        "observation.environment_state": torch.zeros(500, 2, 4),
        "observation.phase": torch.zeros(500, 2, dtype=torch.int64),
        "action": torch.zeros(500, 2, 3),
    }
    result = Augmentation(config)(given, draws())
    for key in ("observation.state", "observation.environment_state"):
        assert result[key].std().item() == pytest.approx(0.25, rel=0.05)
        assert abs(result[key].mean().item()) < 0.02
    # Every frame is another measurement.
    assert not torch.equal(result["observation.state"][:, 0], result["observation.state"][:, 1])
    assert not result["action"].any()
    assert not result["observation.phase"].any()


def test_noise_on_state_and_currents_is_that_of_their_parts():
    rng = np.random.default_rng(0)
    columns = {"observation.state": rng.normal(size=(50, 3)), "observation.current": rng.normal(size=(50, 2))}
    normalizer = Normalizer({key: column_statistics(column) for key, column in columns.items()})
    raw = {key: torch.from_numpy(column[:40].reshape(20, 2, -1)).float() for key, column in columns.items()}
    given = normalizer.normalize(raw)
    config = AugmentationConfig(observation_noise={"observation.state": 0.5})
    result = Augmentation(config)(given, draws())
    assert torch.equal(result["observation.state"][..., :3], result["observation.proprio_state"])
    assert torch.equal(result["observation.state"][..., 3:], given["observation.current"])
    difference = result["observation.proprio_state"] - given["observation.proprio_state"]
    assert difference.std().item() == pytest.approx(0.5, rel=0.2)


def test_no_noise_on_dimensions_that_a_sample_has_not_got():
    config = AugmentationConfig(observation_noise=1.0)
    is_pad = torch.tensor([[False, False, True], [False, True, True]])
    given = {"observation.state": torch.zeros(2, 4, 3), "observation.state_dim_is_pad": is_pad}
    noise = Augmentation(config)(given, draws())["observation.state"]
    assert torch.equal(noise == 0, is_pad[:, None].expand(2, 4, 3))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"gaussian_blur": {"kernel_size": 4}}, "an odd number of pixels, not 4"),
        ({"gaussian_blur": {"sigma": [2, 1]}}, "two ascending numbers above 0"),
        ({"color_jitter": {"hue": 0.6}}, "less than or equal to 0.5"),
        ({"color_jitter": {"brigtness": 0.6}}, "brigtness"),
        ({"random_shift": {"pixels": 0}}, "greater than 0"),
        ({"observation_noise": {"observation.state": -1}}, "at least 0, not -1"),
        ({"cameras": "both"}, "'each' or 'together'"),
    ],
)
def test_settings_that_make_no_sense(given, text):
    with pytest.raises(ValidationError, match=text):
        AugmentationConfig.model_validate(given)


def test_the_defaults():
    config = AugmentationConfig()
    assert config.model_dump(mode="json") == {
        "color_jitter": {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1},
        "gaussian_blur": {"kernel_size": 3, "sigma": [0.1, 2.0]},
        "random_shift": None,
        "cameras": "each",
        "observation_noise": 0.0,
    }
    assert AugmentationConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("given", "features", "paths"),
    [
        ({}, [HEAD, "observation.state"], []),
        ({}, ["observation.state", "action"], [""]),
        ({"observation_noise": 0.1}, ["observation.state"], []),
        ({"observation_noise": 0.1, "random_shift": {}}, ["observation.state"], ["random_shift"]),
        ({"color_jitter": None, "gaussian_blur": None}, [HEAD], [""]),
        ({"observation_noise": {TYPO: 0.1}}, [HEAD, "observation.state"], [f"observation_noise.{TYPO}"]),
        ({"observation_noise": {"action": 1}}, [HEAD, "action"], ["observation_noise.action"]),
    ],
)
def test_settings_without_effect_are_named(given, features, paths):
    found = Augmentation(AugmentationConfig.model_validate(given)).without_effect(features)
    assert [path for path, _ in found] == paths
    if paths == [f"observation_noise.{TYPO}"]:
        assert "did you mean 'observation.state'?" in found[0][1]


def test_nothing_waits_for_the_device():
    """Tensors on `meta` have no values: whoever asked for one would fail."""
    given = {k: v.to("meta") if torch.is_tensor(v) else v for k, v in batch().items()}
    given["observation.state_dim_is_pad"] = torch.zeros(4, 3, dtype=torch.bool, device="meta")
    random = SampleRandom(3, device="meta", stream=AUGMENTATION)
    result = Augmentation(EVERYTHING)(given, random)
    assert all(result[key].device.type == "meta" for key in (HEAD, HAND, "observation.state"))
    assert (result[HEAD].shape, result[HEAD].dtype) == (given[HEAD].shape, torch.float32)
