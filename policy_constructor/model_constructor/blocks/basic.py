"""The plainest blocks: an MLP, a convolution with norm and activation, and a residual pair of those."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers with an activation between them.

    Args:
        dims: widths from input to output, at least two; only the first may be `None`, which is then taken
            from the first batch.
        activation: between the layers, ReLU when not given; it has to be without parameters of its own, for
            the one instance stands at every place.
        dropout: after each activation.
        bias: whether the linear layers have one.
        final_activation: after the last layer, none when not given.

    Shapes:
        `(…, dims[0])` → `(…, dims[-1])`.

    Raises:
        ValueError: for fewer than two dims, dims that are no positive whole numbers, dropout outside [0, 1).
    """

    def __init__(
        self,
        *,
        dims: Sequence[int | None],
        activation: nn.Module | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        final_activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        widths = _checked_dims(dims)
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout is a share of at least 0 and below 1, not {dropout}")
        activation = nn.ReLU() if activation is None else activation
        layers: list[nn.Module] = []
        for index, (width_in, width_out) in enumerate(zip(dims, widths, strict=False)):
            if index:
                layers.append(activation)
                if dropout > 0:
                    layers.append(nn.Dropout(dropout))
            if width_in is None:
                layers.append(nn.LazyLinear(width_out, bias=bias))
            else:
                layers.append(nn.Linear(width_in, width_out, bias=bias))
        if final_activation is not None:
            layers.append(final_activation)
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """`(…, dims[0])` → `(…, dims[-1])`."""
        return self.net(x)


def _checked_dims(dims: Sequence[int | None]) -> list[int]:
    """All widths but the first."""
    if isinstance(dims, str) or not isinstance(dims, Sequence) or len(dims) < 2:
        raise ValueError(f"dims lists at least the input's and the output's width, not {dims!r}")
    widths: list[int] = []
    for index, width in enumerate(dims):
        if width is None and index == 0:
            continue
        if not isinstance(width, int) or isinstance(width, bool) or width < 1:
            raise ValueError(
                f"dims[{index}] is a width of at least 1, not {width!r} (only dims[0] may be null)"
            )
        if index:
            widths.append(width)
    return widths


class ConvBNAct(nn.Module):
    """Convolution, normalization, activation.

    Args:
        in_channels: `None` takes them from the first batch.
        out_channels: channels of the result.
        kernel_size, stride, padding, dilation, groups: as of `nn.Conv2d`.
        bias: of the convolution. When not given there is one exactly when `norm` is not given either; state
            dicts of earlier models have their parameters so.
        norm: `BatchNorm2d` when not given.
        act: ReLU in place when not given.

    Shapes:
        `(B, in_channels, H, W)` → `(B, out_channels, H', W')`.
    """

    def __init__(
        self,
        *,
        in_channels: int | None,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool | None = None,
        norm: nn.Module | None = None,
        act: nn.Module | None = None,
    ) -> None:
        super().__init__()
        bias = norm is None if bias is None else bias
        if in_channels is None:
            self.conv: nn.Module = nn.LazyConv2d(
                out_channels, kernel_size, stride, padding, dilation, groups, bias=bias
            )
        else:
            self.conv = nn.Conv2d(
                in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias=bias
            )
        self.norm = nn.BatchNorm2d(out_channels) if norm is None else norm
        self.act = nn.ReLU(inplace=True) if act is None else act

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, H, W)` → `(B, out_channels, H', W')`."""
        return self.act(self.norm(self.conv(x)))


class ResidualBlock(nn.Module):
    """`act(main2(main1(x)) + skip(x))` with 3×3 convolutions (He et al. 2015, "Deep Residual Learning").

    Args:
        in_channels: channels of the input.
        out_channels: as the input when not given.
        stride: of the first convolution and of the skip connection.
        act: at the end and after the first convolution, ReLU when not given.

    Shapes:
        `(B, in_channels, H, W)` → `(B, out_channels, ⌈H/stride⌉, ⌈W/stride⌉)`.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int | None = None,
        stride: int = 1,
        act: nn.Module | None = None,
    ) -> None:
        super().__init__()
        out_channels = in_channels if out_channels is None else out_channels
        act = nn.ReLU() if act is None else act
        self.main1 = ConvBNAct(
            in_channels=in_channels, out_channels=out_channels, stride=stride, padding=1, act=act
        )
        self.main2 = ConvBNAct(
            in_channels=out_channels, out_channels=out_channels, padding=1, act=nn.Identity()
        )
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or out_channels != in_channels:
            self.skip = ConvBNAct(
                in_channels=in_channels,
                out_channels=out_channels,
                kernel_size=1,
                stride=stride,
                act=nn.Identity(),
            )
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, H, W)` → `(B, out_channels, H', W')`."""
        return self.act(self.main2(self.main1(x)) + self.skip(x))
