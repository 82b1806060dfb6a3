"""Depth Anything 3 as a frozen source of depth features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model_constructor.blocks.vision.image import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    RESIZE_METHODS,
    VALUE_RANGES,
    as_batch,
    check_choice,
    check_size,
    resize_for_patches,
    standardize,
    to_unit_range,
)
from model_constructor.blocks.vision.vit import VisionTransformer
from model_constructor.blocks.vision.weights import (
    WeightsUnavailableError,
    building_on_meta,
    optional_package,
)

WEIGHTS = "depth-anything/DA3METRIC-LARGE"
PATCH_SIZE = 14


class DepthAnything3Bridge(nn.Module):
    """Patch features of chosen blocks of Depth Anything 3 (Lin et al. 2025), always frozen.

    Its parameters never ask for gradients and it stays in eval mode. Only the backbone runs: the depth head
    waits for the device, and nobody reads depth here. On the meta device no weights are fetched.

    Args:
        resize_method: `auto` resizes to the nearest multiples of 14 pixels, `forced` to `forced_size`.
        forced_size: `[height, width]` for `forced`.
        pretrained: load the package `depth_anything_3` and its weights. `false` builds a ViT-L/14 of the
            same shapes with random weights.
        weights: name on the Hugging Face hub, or a folder with `config.json` and `model.safetensors`.
        revision: commit of the weights on the hub.
        width: channels C of the random ViT, 1024 by default.
        num_layers: blocks of the random ViT, 24 by default.
        num_heads: attention heads of the random ViT, 16 by default.
        value_range: `auto` (integers are 0 to 255, floats 0 to 1), `unit` or `byte`.

    Shapes:
        `image (B, 3, H, W)`, `export_feat_layers` n block numbers from 0 → `(B, n, h, w, C)`, in the order
        asked.

    Raises:
        ValueError: for arguments that do not fit each other; in the call for block numbers that do not
            exist.
        WeightsUnavailableError: when code or weights cannot be had.
    """

    def __init__(
        self,
        *,
        resize_method: str = "auto",
        forced_size: Sequence[int] = (224, 224),
        pretrained: bool = True,
        weights: str = WEIGHTS,
        revision: str = "main",
        width: int | None = None,
        num_layers: int | None = None,
        num_heads: int | None = None,
        value_range: str = "auto",
    ) -> None:
        super().__init__()
        check_choice("resize_method", resize_method, RESIZE_METHODS)
        check_choice("value_range", value_range, VALUE_RANGES)
        check_size("forced_size", forced_size, PATCH_SIZE)
        if pretrained and (width, num_layers, num_heads) != (None, None, None):
            raise ValueError("'width', 'num_layers' and 'num_heads' have no effect with 'pretrained: true'")
        self.resize_method = resize_method
        self.forced_size = tuple(forced_size)
        self.value_range = value_range
        self.num_layers = 24 if num_layers is None else num_layers
        self.is_hub_model = pretrained and not building_on_meta()
        self.model: nn.Module
        if self.is_hub_model:
            self.model = load_depth_anything(weights, revision)
        else:
            self.model = VisionTransformer(
                width=1024 if width is None else width,
                num_layers=self.num_layers,
                num_heads=16 if num_heads is None else num_heads,
                patch_size=PATCH_SIZE,
                num_summary_tokens=1,
            )
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> DepthAnything3Bridge:
        """Stay in eval mode, whatever is asked."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, image: Tensor, export_feat_layers: Sequence[int]) -> Tensor:
        """Return the features `(B, n, h, w, C)`, without gradients."""
        layers = [int(layer) for layer in export_feat_layers]
        if not layers or min(layers) < 0 or max(layers) >= self.num_layers:
            last = self.num_layers - 1
            raise ValueError(f"export_feat_layers must be numbers from 0 to {last}, got {layers}")
        image = to_unit_range(as_batch(image), self.value_range)
        image = resize_for_patches(image, self.resize_method, PATCH_SIZE, self.forced_size)
        image = standardize(image, IMAGENET_MEAN, IMAGENET_STD)
        if not isinstance(self.model, VisionTransformer):
            return self._hub_features(image, layers)
        outputs, height, width = self.model.layer_tokens(image, layers)
        maps = [outputs[layer][:, self.model.num_summary_tokens :] for layer in layers]
        return torch.stack(maps, dim=1).unflatten(2, (height, width))

    def _hub_features(self, image: Tensor, layers: list[int]) -> Tensor:
        # The backbone hands layers back in its own, ascending order; an image is a scene of one view.
        ascending = sorted(set(layers))
        backbone = self.model.get_submodule("backbone")
        _, exported = backbone(image[:, None], cam_token=None, export_feat_layers=ascending)
        height, width = (side // PATCH_SIZE for side in image.shape[-2:])
        maps = dict(zip(ascending, exported, strict=True))
        rows = [maps[layer].reshape(image.shape[0], height, width, -1) for layer in layers]
        return torch.stack(rows, dim=1)


def load_depth_anything(weights: str, revision: str) -> nn.Module:
    """Load the network from a folder or from the Hugging Face hub.

    Raises:
        WeightsUnavailableError: in one sentence, with what to do.
    """
    api = optional_package(
        "depth_anything_3.api",
        "da3",
        "install it from github.com/ByteDance-Seed/Depth-Anything-3, or set 'pretrained: false' for random "
        "weights",
    )
    try:
        model = api.DepthAnything3.from_pretrained(weights, revision=revision)
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsUnavailableError(
            f"Depth Anything 3 could not be loaded ({type(error).__name__}: {error}); without a network "
            f"download {WEIGHTS} from the Hugging Face hub to a folder and set 'weights' to its path, or set "
            "'pretrained: false' for random weights"
        ) from error
    return model.model.float()
