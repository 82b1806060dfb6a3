"""Vision blocks with random weights: shapes, ranges, gradients, and what is said of missing weights."""

import sys
import types

import pytest
import torch
from model_constructor.blocks.mutual_information import (
    ActionChunkDecoder,
    ActionChunkEncoder,
    StateDecoder,
    StateEncoder,
)
from model_constructor.blocks.vision.depth import DepthAnything3Bridge
from model_constructor.blocks.vision.image import nearest_multiple
from model_constructor.blocks.vision.libraries import HuggingFaceBackbone, TimmBackbone
from model_constructor.blocks.vision.radio import RadioV3
from model_constructor.blocks.vision.resnet import HandExtractor, ResNet34Trunk
from model_constructor.blocks.vision.weights import WeightsUnavailableError


def radio(**changes):
    torch.manual_seed(0)
    arguments = {"channels": [24, 72], "pretrained": False, "num_layers": 2, "num_heads": 4}
    return RadioV3(**{**arguments, **changes}).eval()


def depth(**changes):
    torch.manual_seed(0)
    arguments = {"pretrained": False, "width": 24, "num_layers": 3, "num_heads": 4}
    return DepthAnything3Bridge(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("size", "method", "grid"),
    [((224, 224), "auto", (14, 14)), ((90, 118), "auto", (6, 7)), ((90, 118), "forced", (14, 14))],
)
@torch.no_grad()
def test_radio_shapes(size, method, grid):
    features, summary = radio(resize_method=method)(torch.rand(2, 3, *size))
    assert features.shape == (2, 24, *grid)
    assert summary.shape == (2, 72)


@torch.no_grad()
def test_the_type_says_the_range_and_an_argument_overrules_it():
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    expected = radio()(image.float() / 255)
    for got in (radio()(image), radio(value_range="byte")(image.float()), radio(value_range="byte")(image)):
        torch.testing.assert_close(got, expected)
    dark = image.float() / 255  # a dark frame in [0, 1] stays what it is
    torch.testing.assert_close(radio(value_range="unit")(dark), expected)
    torch.testing.assert_close(radio()(image[0]), expected)


def test_gradients_reach_a_backbone_unless_it_is_frozen():
    block = radio()
    features, summary = block(torch.rand(1, 3, 32, 32))
    (features.sum() + summary.sum()).backward()
    assert block.model.patch_embedding.weight.grad.abs().sum() > 0

    frozen = depth().train()
    assert not frozen.training
    assert not any(p.requires_grad for p in frozen.parameters())
    assert not frozen(torch.rand(1, 3, 28, 28, requires_grad=True), [0]).requires_grad


@torch.no_grad()
def test_depth_features_come_in_the_order_asked():
    block = depth()
    image = torch.rand(2, 3, 56, 42)
    both = block(image, export_feat_layers=[2, 0])
    assert both.shape == (2, 2, 4, 3, 24)
    torch.testing.assert_close(both[:, 1:], block(image, [0]))
    torch.testing.assert_close(both[:, :1], block(image, [2]))
    with pytest.raises(ValueError, match="numbers from 0 to 2"):
        block(image, [3])


def test_full_size_shapes_without_memory():
    with torch.device("meta"):
        features, summary = RadioV3()(torch.empty(2, 3, 224, 224))
        layers = DepthAnything3Bridge()(torch.empty(2, 3, 224, 224), [18, 23])
        maps = ResNet34Trunk()(torch.empty(2, 3, 240, 320))
    assert features.shape == (2, 1024, 14, 14)
    assert summary.shape == (2, 3072)
    assert layers.shape == (2, 2, 16, 16, 1024)
    assert maps.shape == (2, 512, 8, 10)


def test_missing_weights_are_said_in_one_sentence(monkeypatch, tmp_path):
    for name in ("timm", "depth_anything_3"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(WeightsUnavailableError, match=r"policy-constructor\[timm\]"):
        RadioV3()
    with pytest.raises(WeightsUnavailableError, match=r"policy-constructor\[timm\]"):
        TimmBackbone(name="resnet18")
    with pytest.raises(WeightsUnavailableError, match="'pretrained: false' for random weights"):
        DepthAnything3Bridge()
    monkeypatch.setitem(sys.modules, "timm", types.ModuleType("timm"))
    with pytest.raises(WeightsUnavailableError, match="must be a clone of NVlabs/RADIO"):
        RadioV3(source=str(tmp_path / "nowhere"))

    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "load", offline)
    with pytest.raises(WeightsUnavailableError, match="no route to host") as caught:
        RadioV3()
    assert "set 'source' and 'weights'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_radio_is_loaded_from_a_clone(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "timm", types.ModuleType("timm"))
    (tmp_path / "hubconf.py").write_text(
        "import torch\n"
        "dependencies = ['torch']\n"
        "class Model(torch.nn.Module):\n"
        "    def __init__(self, version):\n"
        "        super().__init__()\n"
        "        self.version = version\n"
        "        self.scale = torch.nn.Parameter(torch.ones(1).half())\n"
        "    def forward(self, x, feature_fmt):\n"
        "        assert feature_fmt == 'NCHW'\n"
        "        return x.mean((2, 3)) * self.scale, x[:, :, ::16, ::16] * self.scale\n"
        "def radio_model(version, progress):\n"
        "    return Model(version)\n"
    )
    block = RadioV3(source=str(tmp_path), weights="c-radio_v3-l")
    assert block.model.scale.dtype == torch.float32
    features, summary = block(torch.rand(2, 3, 30, 50))
    assert features.shape == (2, 3, 2, 3)
    assert summary.shape == (2, 3)
    summary.sum().backward()
    assert block.model.scale.grad is not None


def test_depth_anything_is_asked_for_features_only(monkeypatch):
    class Backbone(torch.nn.Module):
        def forward(self, x, cam_token, export_feat_layers):
            assert x.shape == (2, 1, 3, 28, 42)
            tokens = torch.ones(2, 1, 6, 5)
            return None, [tokens * layer for layer in export_feat_layers]

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = Backbone()
            self.weight = torch.nn.Parameter(torch.ones(1))

    class DepthAnything3(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = Net()

        @classmethod
        def from_pretrained(cls, name, revision):
            assert (name, revision) == ("folder", "main")
            return cls()

    api = types.ModuleType("depth_anything_3.api")
    api.DepthAnything3 = DepthAnything3
    monkeypatch.setitem(sys.modules, "depth_anything_3", types.ModuleType("depth_anything_3"))
    monkeypatch.setitem(sys.modules, "depth_anything_3.api", api)
    block = DepthAnything3Bridge(weights="folder")
    out = block(torch.rand(2, 3, 28, 42), [18, 12])
    assert out.shape == (2, 2, 2, 3, 5)
    assert out[:, 0].unique().tolist() == [18.0]
    assert out[:, 1].unique().tolist() == [12.0]
    assert not block.model.weight.requires_grad


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: radio(resize_method="smart"), "'resize_method' must be one of auto, forced, got 'smart'"),
        (lambda: radio(value_range="percent"), "'value_range'"),
        (lambda: radio(channels=[24, 70]), "multiple of C"),
        (lambda: radio(forced_size=[100, 100]), "multiples of 16"),
        (lambda: RadioV3(num_layers=2), "no effect with 'pretrained: true'"),
        (lambda: RadioV3(channels=[24, 72]), "pretrained model has"),
        (lambda: radio()(torch.rand(3, 4, 5, 6, 7)), "an image must be"),
        (lambda: depth(forced_size=[100, 100]), "multiples of 14"),
        (lambda: HuggingFaceBackbone(), "'name' is needed"),
        (lambda: HuggingFaceBackbone(pretrained=False), "'config' with its 'model_type'"),
        (
            lambda: HuggingFaceBackbone(pretrained=False, config={"model_type": "nonsense"}),
            "no model_type 'nonsense'",
        ),
        (lambda: ResNet34Trunk(out_channels=12), "multiple of 8"),
        (
            lambda: HandExtractor(img_h=32, img_w=64, img_resize=False, self_extracted_dim=8, output_dim=4)(
                torch.rand(1, 3, 64, 64)
            ),
            "set 'img_resize: true'",
        ),
        (
            lambda: ActionChunkEncoder(
                final_activation="softplus", embedding_dim=2, hidden_dim=2, action_dim=2, action_chunk=2
            ),
            "'final_activation' must be one of",
        ),
    ],
)
def test_mistakes_are_said_in_words(call, words):
    if "HuggingFace" in str(call.__code__.co_names):
        pytest.importorskip("transformers")
    with pytest.raises(ValueError, match=words):
        call()


def test_nearest_multiple():
    assert [nearest_multiple(size, 16) for size in (1, 16, 23, 24, 40, 48)] == [16, 16, 16, 32, 48, 48]


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
        {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 32], "depths": [1, 1]},
    ],
)
def test_transformers_backbone_follows_the_contract(config):
    pytest.importorskip("transformers")
    block = HuggingFaceBackbone(pretrained=False, config=config)
    features, summary = block(torch.rand(2, 3, 60, 72))
    assert features.shape[:2] == (2, 32)
    torch.testing.assert_close(summary, features.mean((2, 3)))
    summary.sum().backward()
    assert all(
        p.grad is not None for n, p in block.named_parameters() if "embeddings" in n and "mask" not in n
    )


def test_resnet_has_the_size_of_the_paper():
    with torch.device("meta"):
        trunk = ResNet34Trunk()
    convolutions = sum(p.numel() for n, p in trunk.named_parameters() if n.endswith("conv.weight"))
    assert convolutions == 21_267_648  # of the ImageNet network, its classifier left out
    assert len([n for n, _ in trunk.named_parameters() if n.endswith("conv.weight")]) == 36


def test_hand_extractor_gives_one_token_a_cell():
    block = HandExtractor(img_h=64, img_w=70, img_resize=True, self_extracted_dim=16, output_dim=12)
    assert block(torch.rand(2, 3, 100, 100)).shape == (2, 2 * 3, 12)


def test_autoencoders_return_what_they_were_given():
    torch.manual_seed(0)
    chunk = {"embedding_dim": 6, "hidden_dim": 16, "action_dim": 3, "action_chunk": 5}
    code = ActionChunkEncoder(final_activation="sigmoid", **chunk)(torch.randn(4, 5, 3))["embedding"]
    assert code.shape == (4, 6)
    assert ((code > 0) & (code < 1)).all()
    assert ActionChunkDecoder(final_activation=None, **chunk)(code)["action"].shape == (4, 5, 3)

    sizes = {
        "num_images": 2,
        "img_embedding_dim": 5,
        "state_embedding_dim": 3,
        "hidden_dim": 16,
        "state_dim": 4,
        "state_chunk": 6,
        "img_size": 64,
        "input_channels": 32,
    }
    data = {
        "state": torch.randn(2, 6, 4),
        "cam_0": torch.rand(2, 3, 64, 64),
        "cam_1": torch.rand(2, 3, 64, 64),
    }
    encoder = StateEncoder(**sizes).eval()
    code = encoder(data)["embedding"]
    assert code.shape == (2, 2 * 5 + 3)
    changed = encoder({**data, "cam_1": data["cam_1"] * 0.5})["embedding"]
    assert torch.equal(changed[:, :5], code[:, :5])
    assert torch.equal(changed[:, 10:], code[:, 10:])
    assert not torch.equal(changed[:, 5:10], code[:, 5:10])
    decoded = StateDecoder(**sizes, out_channels=3, final_activation="sigmoid").eval()(code)
    assert {name: tuple(value.shape) for name, value in decoded.items()} == {
        name: tuple(value.shape) for name, value in data.items()
    }
    with pytest.raises(ValueError, match="needs cam_1"):
        encoder({name: data[name] for name in ("state", "cam_0")})


def test_missing_transformers_weights_are_said_in_one_sentence(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(WeightsUnavailableError, match="download it to a folder and set 'name' to its path"):
        HuggingFaceBackbone(name=str(tmp_path / "nowhere"))
