"""Backbones of other libraries under the contract of the vision blocks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from model_constructor.blocks.vision.image import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    VALUE_RANGES,
    as_batch,
    check_choice,
    resize_for_patches,
    standardize,
    to_unit_range,
)
from model_constructor.blocks.vision.weights import (
    WeightsUnavailableError,
    optional_package,
    weights_unwanted,
)


class LibraryBackbone(nn.Module, ABC):
    """Resize, standardize, run, and take the last feature map; its mean over the image is the summary."""

    def __init__(
        self, model: nn.Module, *, step: int, mean: Sequence[float], std: Sequence[float], value_range: str
    ) -> None:
        super().__init__()
        check_choice("value_range", value_range, VALUE_RANGES)
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(f"'mean' and 'std' must be three numbers, std above 0, got {mean} and {std}")
        if step < 1:
            raise ValueError(f"'step' must be at least 1 pixel, got {step}")
        self.step = step
        self.mean, self.std = tuple(mean), tuple(std)
        self.value_range = value_range
        self.model = model

    @abstractmethod
    def last_map(self, image: Tensor) -> Tensor:
        """Run the network; `(B, 3, H, W)` → `(B, C, h, w)`."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return features `(B, C, h, w)` and summary `(B, C)`."""
        image = to_unit_range(as_batch(image), self.value_range)
        image = resize_for_patches(image, "auto", self.step, (0, 0))
        features = self.last_map(standardize(image, self.mean, self.std))
        return features, features.mean(dim=(2, 3))


class HuggingFaceBackbone(LibraryBackbone):
    """A backbone of the transformers library, through its `AutoBackbone`.

    Needs the extra `vision`. Where no weights are fetched (on the meta device, or for a checkpoint),
    `config` must be given.

    Args:
        name: model on the Hugging Face hub or folder, for `pretrained: true`.
        config: for `pretrained: false` the configuration, with `model_type` and what else it knows, such as
            `{model_type: dinov2, hidden_size: 384, num_hidden_layers: 12, num_attention_heads: 6}`.
        pretrained: load weights, otherwise they are random.
        revision: commit of the weights on the hub.
        step: images are resized to the nearest multiple of it; the patch size when not given and known.
        mean: subtracted by channel.
        std: divided by, by channel.
        value_range: `auto` (integers are 0 to 255, floats 0 to 1), `unit` or `byte`.

    Shapes:
        `(B, 3, H, W)` → features `(B, C, h, w)` of the last stage, summary `(B, C)`, their mean.

    Raises:
        ValueError: for arguments that do not fit each other or a `model_type` that the library does not
            know.
        WeightsUnavailableError: when the library or the weights are not here.
    """

    def __init__(
        self,
        *,
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
        pretrained: bool = True,
        revision: str = "main",
        step: int | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        value_range: str = "auto",
    ) -> None:
        library = optional_package(
            "transformers", "hf_backbone", "install the extra with `pip install 'policy-constructor[vision]'`"
        )
        if pretrained and name is None:
            raise ValueError("'name' is needed with 'pretrained: true'")
        if not pretrained and (config is None or "model_type" not in config):
            raise ValueError("'config' with its 'model_type' is needed with 'pretrained: false'")
        if pretrained and not weights_unwanted():
            try:
                model = library.AutoBackbone.from_pretrained(name, revision=revision)
            except (OSError, ValueError) as error:
                raise WeightsUnavailableError(
                    f"'{name}' could not be loaded ({type(error).__name__}); without a network download it "
                    "to a folder and set 'name' to its path, or set 'pretrained: false' and a 'config' for "
                    "random weights"
                ) from error
        elif config is None:
            raise ValueError("'config' is needed to build the model without its weights")
        else:
            settings = dict(config)
            model_type = settings.pop("model_type")
            if model_type not in library.CONFIG_MAPPING:
                raise ValueError(f"the transformers library knows no model_type '{model_type}'")
            model = library.AutoBackbone.from_config(library.CONFIG_MAPPING[model_type](**settings))
        if step is None:
            patch = getattr(model.config, "patch_size", 1)
            step = patch if isinstance(patch, int) else max(patch)
        super().__init__(model, step=step, mean=mean, std=std, value_range=value_range)

    def last_map(self, image: Tensor) -> Tensor:
        """Take the last of the library's feature maps."""
        return self.model(image).feature_maps[-1]


class TimmBackbone(LibraryBackbone):
    """A backbone of the timm library. Needs the extra `timm`, which brings torchvision.

    Args:
        name: model that timm knows.
        pretrained: load weights, otherwise they are random.
        weights: path of a checkpoint file to load.
        step: images are resized to the nearest multiple of it.
        mean: subtracted by channel.
        std: divided by, by channel.
        value_range: `auto` (integers are 0 to 255, floats 0 to 1), `unit` or `byte`.

    Shapes:
        `(B, 3, H, W)` → features `(B, C, h, w)` of the last stage, summary `(B, C)`, their mean.

    Raises:
        WeightsUnavailableError: when the library or the weights are not here.
    """

    def __init__(
        self,
        *,
        name: str,
        pretrained: bool = True,
        weights: str | None = None,
        step: int = 1,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        value_range: str = "auto",
    ) -> None:
        library = optional_package(
            "timm", "timm_backbone", "install the extra with `pip install 'policy-constructor[timm]'`"
        )
        try:
            model = library.create_model(
                name,
                pretrained=pretrained and weights is None and not weights_unwanted(),
                checkpoint_path=weights or "",
                features_only=True,
                out_indices=(-1,),
            )
        except (OSError, RuntimeError) as error:
            raise WeightsUnavailableError(
                f"'{name}' could not be loaded ({type(error).__name__}: {error}); without a network download "
                "its checkpoint and set 'weights' to the path, or set 'pretrained: false' for random weights"
            ) from error
        super().__init__(model, step=step, mean=mean, std=std, value_range=value_range)

    def last_map(self, image: Tensor) -> Tensor:
        """Take the only feature map that was asked for."""
        return self.model(image)[-1]
