"""Networks: tensors to tensors, with no probability in them. A datum is a flat row of numbers.

Every constructor argument is kept under its own name, so that a network can be written down and
built again. Weights start at Glorot's uniform law (Glorot & Bengio 2010) and biases at zero, drawn
from torch's generator as for any module of torch.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aevb.errors import UsageError

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d, nn.ConvTranspose2d)

FEW_CHANNELS = 4
"""Up to here a transposed convolution is written as a plain one."""


class MLP(nn.Module):
    """A multilayer perceptron, y = W_n h(... h(W_1 x + b_1) ...) + b_n.

    Shapes: (..., in_features) to (..., out_features), with one hidden layer for each width.
    Errors: UsageError for a width below 1, and for x of another one.
    Source: Kingma & Welling (2013), appendix C; `hidden=[]` gives a linear map.
    Example:
        >>> import torch
        >>> MLP(784, [500], 2 * 20)(torch.zeros(3, 784)).shape
        torch.Size([3, 40])
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        out_features: int,
        activation: type[nn.Module] = nn.Tanh,
    ) -> None:
        super().__init__()
        widths = _widths(in_features, hidden, out_features)
        self.in_features = in_features
        self.hidden = tuple(hidden)
        self.out_features = out_features
        self.activation = activation
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(widths[:-1]):
            layers += [_glorot(nn.Linear(n_in, n_out)), activation()]
        self.body = nn.Sequential(*layers)
        self.head = _glorot(nn.Linear(widths[-2], out_features))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.in_features:
            raise UsageError(
                f"the network takes {self.in_features} numbers, found {x.shape[-1]}: size it for "
                "what it is given"
            )
        y: Tensor = self.head(self.body(x))
        return y

    def start_at(self, output: Tensor) -> None:
        """Let the network begin near a constant output, (out_features,), by its last bias."""
        self.head.bias.data.copy_(output)


class MADE(nn.Module):
    """A perceptron whose outputs for input i depend on the inputs before i, and on a context.

        output_i = f(x_1, ..., x_(i-1), context),   W h becomes (W * mask) h in every layer

    Hidden units are of degrees that come round and round, 1 to D - 1 (from 0 where there is a
    context): one of degree d sees what is of degree at most d, output i what is below i. The masks
    follow from the widths and are made anew in each call, so that no file can hold others.
    Shapes: x (..., in_features) and a context (*batch, context_features) that broadcasts to it, to
    (..., outputs_per_input, in_features).
    Errors: UsageError for a width below 1.
    Source: Germain et al. (2015), "MADE: masked autoencoder for distribution estimation", equations
    8 to 13.
    Example:
        >>> import torch
        >>> MADE(3, [8])(torch.zeros(5, 3)).shape
        torch.Size([5, 2, 3])
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        outputs_per_input: int = 2,
        context_features: int = 0,
        activation: type[nn.Module] = nn.Tanh,
    ) -> None:
        super().__init__()
        widths = _widths(in_features, hidden, outputs_per_input * in_features)
        self.in_features = in_features
        self.hidden = tuple(hidden)
        self.outputs_per_input = outputs_per_input
        self.context_features = context_features
        self.activation = activation
        *body, head = (_glorot(nn.Linear(n_in, n_out)) for n_in, n_out in pairwise(widths))
        self.body: Sequence[Any] = nn.ModuleList(body)  # type: ignore[assignment]
        self.head = head
        self.between = activation()
        if context_features:
            self.context = nn.Linear(context_features, widths[1], bias=False)
            nn.init.xavier_uniform_(self.context.weight)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        first: Any = 0 if context is None else self.context(context)
        degrees = seen = torch.arange(1, self.in_features + 1, device=x.device)
        y = x
        for layer in self.body:
            own = self._hidden_degrees(layer.out_features, x.device)
            mask = own[:, None] >= seen
            y = self.between(F.linear(y, layer.weight * mask, layer.bias) + first)
            seen, first = own, 0
        mask = (degrees[:, None] > seen).repeat(self.outputs_per_input, 1)
        blocks: Any = F.linear(y, self.head.weight * mask, self.head.bias) + first
        result: Tensor = blocks.unflatten(-1, (self.outputs_per_input, self.in_features))
        return result

    def _hidden_degrees(self, count: int, device: torch.device) -> Tensor:
        lowest = 0 if self.context_features else min(1, self.in_features - 1)
        return lowest + torch.arange(count, device=device) % (self.in_features - lowest)


class Leading(nn.Module):
    """A network that sees the first `size` numbers of its input: the layer of z next to the data.

    Shapes: (..., D) with D >= size, to what `network` makes of (..., size).
    Example:
        >>> import torch
        >>> Leading(MLP(2, [], 5), 2)(torch.zeros(3, 7)).shape
        torch.Size([3, 5])
    """

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network = network
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.network(x[..., : self.size])
        return y

    def start_at(self, output: Tensor) -> None:
        """Let the network begin near a constant output, by its own last bias."""
        start = getattr(self.network, "start_at", None)
        if start is not None:
            start(output)


class ConvolutionalEncoder(nn.Module):
    """Convolutions that halve an image, then one linear layer.

    Shapes: flat rows (N, C H W) of images (C, H, W), any size, to (N, out_features). Each entry of
    `channels` is a 4x4 convolution with stride 2 (along an axis of length 1, a 1-wide one).
    Errors: UsageError for an image shape that is not (C, H, W), a width below 1, and, when called,
    a row of another length.
    Source: the usual form since Radford et al. (2016), "Unsupervised representation learning".
    Example:
        >>> import torch
        >>> ConvolutionalEncoder((1, 28, 28), [32, 64], 40)(torch.zeros(3, 784)).shape
        torch.Size([3, 40])
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        channels: Sequence[int],
        out_features: int,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        _widths(1, channels, out_features)
        self.image_shape = _image_shape(image_shape)
        self.channels = tuple(channels)
        self.out_features = out_features
        self.activation = activation
        layers: list[nn.Module] = []
        sizes = _halvings(self.image_shape, self.channels)
        for (c_in, *size), (c_out, *_) in pairwise(sizes):
            kernel, stride, padding = _window(size)
            layers += [_glorot(nn.Conv2d(c_in, c_out, kernel, stride, padding)), activation()]
        self.body = nn.Sequential(*layers)
        self.head = _glorot(nn.Linear(math.prod(sizes[-1]), out_features))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != math.prod(self.image_shape):
            raise UsageError(
                f"rows of {math.prod(self.image_shape)} numbers were expected, "
                f"an image of shape {self.image_shape}, found {x.shape[-1]}"
            )
        features = self.body(x.unflatten(-1, self.image_shape))
        # Channels last, as they lie in memory: nothing is moved.
        y: Tensor = self.head(features.permute(0, 2, 3, 1).flatten(1))
        return y


class ConvolutionalDecoder(nn.Module):
    """One linear layer, then transposed convolutions that double an image up to its exact size.

    Shapes: (N, in_features) to flat rows (N, outputs C H W): `outputs` blocks of an image each, one
    for each parameter of the likelihood. `channels` is the encoder's, and gone through
    backwards.
    Errors: UsageError for an image shape that is not (C, H, W), and for a width below 1.
    Source: as `ConvolutionalEncoder`.
    Example:
        >>> import torch
        >>> ConvolutionalDecoder(20, [32, 64], (1, 28, 20), outputs=2)(torch.zeros(3, 20)).shape
        torch.Size([3, 1120])
    """

    def __init__(
        self,
        in_features: int,
        channels: Sequence[int],
        image_shape: Sequence[int],
        outputs: int = 1,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        _widths(in_features, channels, outputs)
        self.in_features = in_features
        self.channels = tuple(channels)
        self.image_shape = _image_shape(image_shape)
        self.outputs = outputs
        self.activation = activation
        sizes = _halvings(self.image_shape, self.channels)[::-1]
        sizes[-1] = (outputs * self.image_shape[0], *self.image_shape[1:])
        self._small = sizes[0]
        self.body = _glorot(nn.Linear(in_features, math.prod(self._small)))
        layers: list[nn.Module] = []
        for (c_in, *_), (c_out, *size) in pairwise(sizes):
            kernel, stride, padding = _window(size)
            height, width = (n % 2 if n > 1 else 0 for n in size)
            few = kernel == (4, 4) and c_out <= FEW_CHANNELS
            kind = _Doubling if few else nn.ConvTranspose2d
            layer = kind(c_in, c_out, kernel, stride, padding, (height, width))
            layers += [activation(), _glorot(layer)]
        self.head = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        channels, height, width = self._small
        features = self.body(z).unflatten(-1, (height, width, channels)).permute(0, 3, 1, 2)
        y: Tensor = self.head(features)
        return y.flatten(1)


class _Doubling(nn.ConvTranspose2d):
    """The transposed convolution with a 4x4 kernel and stride 2, as one with a 3x3 kernel.

        y[2i + a, 2j + b] = (x * k_ab)[i, j],   k_ab the taps of the kernel that meet this pixel

    A processor convolves onto four times as many channels, whose pixels are then put side by side,
    several times as fast as it goes backwards from a few.
    Source: Shi et al. (2016), "Is the deconvolution layer the same as a convolutional layer?".
    """

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        height, width = x.shape[2:]
        down, right = self.output_padding
        taps = self.weight.flip(2, 3).unflatten(3, (2, 2)).unflatten(2, (2, 2))
        rows = _phases(taps, 2)  # (C, c, a, 3, 2, 2)
        kernel = _phases(rows, 4).permute(1, 2, 4, 0, 3, 5)  # (c, a, b, C, 3, 3)
        assert self.bias is not None
        parts = F.conv2d(
            F.pad(x, (0, int(right), 0, int(down))),
            kernel.flatten(0, 2),
            self.bias.repeat_interleave(4),
            padding=1,
        )
        image: Tensor = F.pixel_shuffle(parts, 2)
        return image[:, :, : 2 * height + int(down), : 2 * width + int(right)]


def _phases(taps: Tensor, axis: int) -> Tensor:
    """Of taps by (neighbor, phase) at two axes, those of each phase at three places: (phase, 3)."""
    first, second = taps.unbind(axis + 1)
    behind = [0, 0] * (first.ndim - 1 - axis)
    return torch.stack([F.pad(first, [*behind, 0, 1]), F.pad(second, [*behind, 1, 0])], axis)


class Standardizer(nn.Module):
    """Mean and deviation of each column, kept with the model; the base of what is standardized.

    `fit` takes them from data; a constant column has deviation 1.
    Shapes: both (width,). Units: those of the column.
    Example:
        >>> columns = Standardizer(2)
        >>> columns.fit(torch.tensor([[0.0, 10.0], [2.0, 10.0]]))
        >>> columns.standardize(torch.tensor([[3.0, 11.0]]))
        tensor([[2., 1.]])
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    def fit(self, x: Tensor) -> None:
        """Take mean and deviation from the rows of x (N, width), of which NaN cells are missing."""
        x = x.double()  # the square of a number that fits 32 bits may not
        mean = torch.nanmean(x, 0).nan_to_num(nan=0.0)
        deviation = torch.nanmean((x - mean).square(), 0).nan_to_num(nan=0.0).sqrt()
        self.mean.copy_(mean)
        varies = deviation > 1e-12 * mean.abs()  # more than the rounding of the mean
        self.deviation.copy_(torch.where(varies, deviation, torch.ones_like(deviation)))

    def standardize(self, x: Tensor) -> Tensor:
        """(x - mean) / deviation, (..., width)."""
        return (x - self.mean) / self.deviation


class StandardizedInput(Standardizer):
    """A network that sees each column of its input with mean 0 and deviation 1.

        y = network((x - mean) / deviation)

    An encoder of a table needs it, where columns are of very different sizes; what it is
    conditioned on stays x.
    Shapes: (..., width) as `network`.
    Example:
        >>> import torch
        >>> net = StandardizedInput(MLP(2, [], 1), 2)
        >>> net.fit(torch.tensor([[0.0, 10.0], [2.0, 10.0]]))
        >>> net.mean, net.deviation
        (tensor([ 1., 10.]), tensor([1., 1.]))
    """

    def __init__(self, network: nn.Module, width: int) -> None:
        super().__init__(width)
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.network(self.standardize(x))
        return y


class ObservedInput(nn.Module):
    """A network that is told which cells were observed, where NaN marks those that were not.

        y = network([x_i where observed, else 0; 1 where observed, else 0])

    Shapes: (..., X) to what `network` makes of (..., 2X).
    Source: Nazabal et al. (2020), section 3.1, for the zeros; the mask tells them from real ones.
    Example:
        >>> import torch
        >>> ObservedInput(nn.Identity())(torch.tensor([[2.0, torch.nan]]))
        tensor([[2., 0., 1., 0.]])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        observed = ~torch.isnan(x)
        filled = torch.where(observed, x, torch.zeros_like(x))
        y: Tensor = self.network(torch.cat([filled, observed.to(x.dtype)], dim=-1))
        return y


def _glorot(layer: Layer) -> Layer:
    nn.init.xavier_uniform_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    if layer.weight.ndim == 4:  # channels last in memory is what processors convolve fastest
        layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    return layer


def _widths(first: int, inner: Sequence[int], last: int) -> list[int]:
    if not isinstance(inner, Sequence):
        raise UsageError(f"expected a list of widths, like [500], found {inner}")
    widths = [first, *inner, last]
    if min(widths) < 1:
        raise UsageError(f"every layer needs at least 1 unit, found widths {widths}")
    return widths


def _image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    if len(shape) != 3 or min(shape) < 1:
        raise UsageError(f"an image shape is (channels, height, width), found {tuple(shape)}")
    return shape[0], shape[1], shape[2]


def _halvings(
    image_shape: tuple[int, int, int], channels: Sequence[int]
) -> list[tuple[int, int, int]]:
    """The shapes from the image to the smallest one; a length of 1 is not halved."""
    sizes = [image_shape]
    for c in channels:
        _, height, width = sizes[-1]
        sizes.append((c, max(height // 2, 1), max(width // 2, 1)))
    return sizes


def _window(size: Sequence[int]) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Kernel, stride and padding that take a length n > 1 to n // 2 and leave 1 as it is."""
    (a, b) = (n > 1 for n in size)
    return (1 + 3 * a, 1 + 3 * b), (1 + a, 1 + b), (int(a), int(b))
