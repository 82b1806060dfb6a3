"""C-RADIOv3-L, the vision foundation model of most experiments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from model_constructor.blocks.vision.image import (
    RESIZE_METHODS,
    VALUE_RANGES,
    as_batch,
    check_choice,
    check_size,
    resize_for_patches,
    to_unit_range,
)
from model_constructor.blocks.vision.vit import VisionTransformer
from model_constructor.blocks.vision.weights import (
    WeightsUnavailableError,
    building_on_meta,
    optional_package,
)
from model_constructor.util.trust import is_trusted

REPOSITORY = "NVlabs/RADIO"
REVISION = "c0f37017930e9dda53f93424cf4bf39fc51f287e"
VERSION = "c-radio_v3-l"
PATCH_SIZE = 16


class RadioV3(nn.Module):
    """C-RADIOv3-L as a backbone (Heinrich et al. 2025, "RADIOv2.5", and Ranzinger et al. 2024, "AM-RADIO").

    Gradients flow into it unless its parameters are frozen. On the meta device no weights are fetched.

    Args:
        channels: `[C, D]`, channels of the features and size of the summary; those of C-RADIOv3-L are
            [1024, 3072].
        resize_method: `auto` resizes to the nearest multiples of 16 pixels, `forced` to `forced_size`.
        forced_size: `[height, width]` for `forced`.
        pretrained: fetch code and weights through torch hub. `false` builds a ViT-L/16 of the same shapes
            with random weights.
        revision: commit of the hub repository.
        source: path of a clone of that repository instead of the network.
        weights: version that the repository knows, or the path of a checkpoint file.
        num_layers: blocks of the random ViT, 24 by default.
        num_heads: attention heads of the random ViT, 16 by default.
        value_range: `auto` (integers are 0 to 255, floats 0 to 1), `unit` or `byte`.

    Shapes:
        `(B, 3, H, W)` or `(3, H, W)` → features `(B, C, H/16, W/16)`, summary `(B, D)`.

    Raises:
        ValueError: for arguments that do not fit each other.
        WeightsUnavailableError: when code or weights cannot be had.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int] = (1024, 3072),
        resize_method: str = "auto",
        forced_size: Sequence[int] = (224, 224),
        pretrained: bool = True,
        revision: str = REVISION,
        source: str | None = None,
        weights: str = VERSION,
        num_layers: int | None = None,
        num_heads: int | None = None,
        value_range: str = "auto",
    ) -> None:
        super().__init__()
        check_choice("resize_method", resize_method, RESIZE_METHODS)
        check_choice("value_range", value_range, VALUE_RANGES)
        check_size("forced_size", forced_size, PATCH_SIZE)
        if len(channels) != 2 or channels[0] < 1 or channels[1] % channels[0]:
            raise ValueError(f"'channels' must be [C, D] with D a multiple of C, got {list(channels)}")
        if pretrained and (num_layers is not None or num_heads is not None):
            raise ValueError("'num_layers' and 'num_heads' have no effect with 'pretrained: true'")
        if pretrained and tuple(channels) != (1024, 3072):
            raise ValueError(f"the pretrained model has 'channels: [1024, 3072]', got {list(channels)}")
        self.resize_method = resize_method
        self.forced_size = tuple(forced_size)
        self.value_range = value_range
        self.is_hub_model = pretrained and not building_on_meta()
        self.model: nn.Module
        if self.is_hub_model:
            self.model = load_radio(source, revision, weights)
        else:
            self.model = VisionTransformer(
                width=channels[0],
                num_layers=24 if num_layers is None else num_layers,
                num_heads=16 if num_heads is None else num_heads,
                patch_size=PATCH_SIZE,
                num_summary_tokens=channels[1] // channels[0],
            )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return features `(B, C, h, w)` and summary `(B, D)`."""
        image = to_unit_range(as_batch(image), self.value_range)
        image = resize_for_patches(image, self.resize_method, PATCH_SIZE, self.forced_size)
        if not self.is_hub_model:
            return self.model(image)
        summary, features = self.model(image, feature_fmt="NCHW")
        return features, summary


def load_radio(source: str | None, revision: str, weights: str) -> nn.Module:
    """Load the model through torch hub, from a clone at `source` or from the network.

    Raises:
        WeightsUnavailableError: in one sentence, with what to do.
    """
    optional_package("timm", "radiov3", "install the extra with `pip install 'policy-constructor[timm]'`")
    if source is not None and not Path(source).expanduser().is_dir():
        raise WeightsUnavailableError(f"'source: {source}' is no folder; it must be a clone of {REPOSITORY}")
    foreign = source is not None or revision != REVISION or "/" in weights
    if foreign and not is_trusted("radiov3"):
        raise WeightsUnavailableError(
            "radiov3 would run code or unpickle weights from where this file says ('source', 'revision' or "
            "'weights'), which is not trusted; whoever builds it can trust 'radiov3'"
        )
    arguments = {"version": str(Path(weights).expanduser()), "progress": False}
    try:
        if source is not None:
            model = torch.hub.load(str(Path(source).expanduser()), "radio_model", source="local", **arguments)
        else:
            name = f"{REPOSITORY}:{revision}"
            model = torch.hub.load(name, "radio_model", trust_repo=True, skip_validation=True, **arguments)
    except (OSError, RuntimeError, KeyError) as error:
        raise WeightsUnavailableError(
            f"C-RADIOv3-L could not be loaded ({type(error).__name__}: {error}); without a network clone "
            f"{REPOSITORY} at {revision[:12]}, download the checkpoint of {weights}, and set 'source' and "
            "'weights' to their paths, or set 'pretrained: false' for random weights"
        ) from error
    return model.float()
