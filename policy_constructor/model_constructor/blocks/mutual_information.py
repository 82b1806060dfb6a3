"""Autoencoders of actions and of states, between whose embeddings information is measured."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model_constructor.blocks.basic import MLP, ConvBNAct
from model_constructor.blocks.vision.image import check_choice, to_unit_range
from model_constructor.blocks.vision.resnet import STRIDE, ResNet34Trunk

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def activation(name: str | None) -> nn.Module:
    """Return the activation of that name; none is the identity; `ValueError` for an unknown one."""
    if name is None:
        return nn.Identity()
    check_choice("final_activation", name, list(ACTIVATIONS))
    return ACTIVATIONS[name]()


class ActionChunkEncoder(nn.Module):
    """Compress an action chunk into a vector.

    With Gaussian noise on a vector whose square is penalised, as its trainer adds it, the pair with
    `ActionChunkDecoder` is a variational autoencoder of fixed variance (Kingma & Welling 2014,
    "Auto-Encoding Variational Bayes").

    Args:
        final_activation: of the embedding: sigmoid, tanh, relu, gelu, silu or null.
        embedding_dim: size E of the embedding.
        hidden_dim: width of the two hidden layers.
        action_dim: size A of an action.
        action_chunk: number S of actions.

    Shapes:
        `(B, S, A)` → `{"embedding": (B, E)}`.
    """

    def __init__(
        self,
        *,
        final_activation: str | None,
        embedding_dim: int,
        hidden_dim: int,
        action_dim: int,
        action_chunk: int,
    ) -> None:
        super().__init__()
        dims = [action_chunk * action_dim, hidden_dim, hidden_dim, embedding_dim]
        self.net = MLP(dims=dims, activation=nn.GELU(), final_activation=activation(final_activation))

    def forward(self, action: Tensor) -> dict[str, Tensor]:
        """Return `embedding (B, E)`."""
        return {"embedding": self.net(action.flatten(1))}


class ActionChunkDecoder(nn.Module):
    """Recover an action chunk from its embedding; arguments as in the encoder, the activation last.

    Shapes:
        `(B, E)` → `{"action": (B, S, A)}`.
    """

    def __init__(
        self,
        *,
        final_activation: str | None,
        embedding_dim: int,
        hidden_dim: int,
        action_dim: int,
        action_chunk: int,
    ) -> None:
        super().__init__()
        self.shape = (action_chunk, action_dim)
        dims = [embedding_dim, hidden_dim, hidden_dim, action_chunk * action_dim]
        self.net = MLP(dims=dims, activation=nn.GELU(), final_activation=activation(final_activation))

    def forward(self, embedding: Tensor) -> dict[str, Tensor]:
        """Return `action (B, S, A)`."""
        return {"action": self.net(embedding).unflatten(-1, self.shape)}


def _map_size(img_size: int) -> int:
    if img_size < STRIDE or img_size % STRIDE:
        raise ValueError(f"'img_size' must be a multiple of {STRIDE}, got {img_size}")
    return img_size // STRIDE


class StateEncoder(nn.Module):
    """Compress a state history and images into a vector; one ResNet-34 sees all cameras.

    Args:
        num_images: cameras `cam_0`, `cam_1`, …
        img_embedding_dim: size E_i of an image's embedding.
        state_embedding_dim: size E_s of the states' embedding.
        hidden_dim: width of the hidden layers.
        state_dim: size P of a state.
        state_chunk: number T of states.
        img_size: side of the square images, a multiple of 32.
        input_channels: channels that the heads get from the trunk, 512 for a ResNet-34.

    Shapes:
        `{"state": (B, T, P), "cam_i": (B, 3, img_size, img_size)}` → `{"embedding": (B, num_images·E_i +
        E_s)}`, cameras first.

    Raises:
        ValueError: for an image size that the strides do not divide.
    """

    def __init__(
        self,
        *,
        num_images: int,
        img_embedding_dim: int,
        state_embedding_dim: int,
        hidden_dim: int,
        state_dim: int,
        state_chunk: int,
        img_size: int,
        input_channels: int,
    ) -> None:
        super().__init__()
        side = _map_size(img_size)
        self.num_images = num_images
        self.trunk = ResNet34Trunk(out_channels=input_channels)
        self.image_head = MLP(
            dims=[input_channels * side * side, hidden_dim, img_embedding_dim], activation=nn.GELU()
        )
        self.state_net = MLP(
            dims=[state_chunk * state_dim, hidden_dim, hidden_dim, state_embedding_dim], activation=nn.GELU()
        )

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return `embedding (B, num_images·E_i + E_s)`; raises `ValueError` for a missing key."""
        names = ["state", *(f"cam_{index}" for index in range(self.num_images))]
        missing = [name for name in names if name not in data]
        if missing:
            raise ValueError(f"the state encoder needs {', '.join(missing)}, got {', '.join(data)}")
        state = self.state_net(data["state"].flatten(1))
        images = torch.stack([to_unit_range(data[name], "auto") for name in names[1:]], dim=1)
        codes = self.image_head(self.trunk(images.flatten(0, 1)).flatten(1))
        return {"embedding": torch.cat([codes.unflatten(0, (-1, self.num_images)).flatten(1), state], dim=-1)}


class StateDecoder(nn.Module):
    """Recover states and images from their embedding.

    Images grow from the trunk's map by nearest-neighbour doubling and convolutions, which leaves no
    checkerboard (Odena et al. 2016, "Deconvolution and Checkerboard Artifacts").

    Args:
        out_channels: channels of an image.
        final_activation: of the images: sigmoid, tanh, relu, gelu, silu or null; the states have none.

    The other arguments are those of `StateEncoder`.

    Shapes:
        `(B, num_images·E_i + E_s)` → `{"state": (B, T, P), "cam_i": (B, out_channels, img_size,
        img_size)}`.
    """

    def __init__(
        self,
        *,
        num_images: int,
        img_embedding_dim: int,
        state_embedding_dim: int,
        hidden_dim: int,
        state_dim: int,
        state_chunk: int,
        img_size: int,
        input_channels: int,
        out_channels: int,
        final_activation: str | None,
    ) -> None:
        super().__init__()
        if input_channels % STRIDE:
            raise ValueError(f"'input_channels' must be a multiple of {STRIDE}, got {input_channels}")
        side = _map_size(img_size)
        self.num_images = num_images
        self.img_embedding_dim = img_embedding_dim
        self.map_shape = (input_channels, side, side)
        self.state_shape = (state_chunk, state_dim)
        self.state_net = MLP(
            dims=[state_embedding_dim, hidden_dim, hidden_dim, state_chunk * state_dim], activation=nn.GELU()
        )
        self.image_head = MLP(
            dims=[img_embedding_dim, hidden_dim, input_channels * side * side], activation=nn.GELU()
        )
        layers: list[nn.Module] = []
        channels = input_channels
        while side < img_size:
            layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
            layers.append(
                ConvBNAct(
                    in_channels=channels, out_channels=channels // 2, padding=1, bias=False, act=nn.ReLU()
                )
            )
            channels //= 2
            side *= 2
        layers.append(nn.Conv2d(channels, out_channels, 3, padding=1))
        layers.append(activation(final_activation))
        self.image_net = nn.Sequential(*layers)

    def forward(self, embedding: Tensor) -> dict[str, Tensor]:
        """Return `state (B, T, P)` and `cam_i (B, out_channels, img_size, img_size)`."""
        codes, state = embedding.tensor_split((self.num_images * self.img_embedding_dim,), dim=-1)
        result = {"state": self.state_net(state).unflatten(-1, self.state_shape)}
        maps = self.image_head(codes.unflatten(-1, (self.num_images, -1)).flatten(0, 1))
        images = self.image_net(maps.unflatten(-1, self.map_shape)).unflatten(0, (-1, self.num_images))
        for index, image in enumerate(images.unbind(1)):
            result[f"cam_{index}"] = image
        return result
