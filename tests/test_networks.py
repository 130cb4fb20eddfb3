"""Networks: shapes for any size, Glorot's start, errors in a sentence."""

import math

import pytest
import torch
from helpers import needs_compiler
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from aevb import MLP, ConvolutionalDecoder, ConvolutionalEncoder
from aevb.compilation import Compiled
from aevb.errors import UsageError
from aevb.networks import StandardizedInput, _Doubling

SIDES = st.integers(1, 33)


@given(st.integers(1, 4), SIDES, SIDES, st.lists(st.integers(1, 5), max_size=4), st.integers(1, 3))
def test_convolutions_fit_any_image(c, h, w, channels, outputs):
    encoder = ConvolutionalEncoder((c, h, w), channels, 6)
    decoder = ConvolutionalDecoder(6, channels, (c, h, w), outputs)
    code = encoder(torch.randn(2, c * h * w))
    assert code.shape == (2, 6)
    assert decoder(code).shape == (2, outputs * c * h * w)


def test_a_row_of_another_width_gets_a_sentence():
    with pytest.raises(UsageError, match="takes 3 numbers, found 2: size it"):
        MLP(3, [4], 5)(torch.zeros(7, 2))


def test_convolution_sees_pixels_where_they_are():
    """A flat row is (C, H, W) in that order: moving one pixel moves the answer as torch says."""
    encoder = ConvolutionalEncoder((2, 6, 4), [3], 5, nn.Identity)
    x = torch.randn(2, 48)
    image = encoder.body[0](x.view(2, 2, 6, 4)).permute(0, 2, 3, 1).flatten(1)
    assert torch.allclose(encoder(x), encoder.head(image))
    decoder = ConvolutionalDecoder(5, [3], (2, 6, 4), 2)
    code = torch.randn(2, 5)
    image = decoder.head(decoder.body(code).view(2, 3, 2, 3).permute(0, 3, 1, 2))
    assert image.shape == (2, 4, 6, 4)
    assert torch.equal(decoder(code), image.reshape(2, -1))


def test_mlp_is_the_formula():
    net = MLP(3, [4], 2)
    x = torch.randn(5, 6, 3)
    hidden = torch.tanh(x @ net.body[0].weight.T + net.body[0].bias)
    assert torch.allclose(net(x), hidden @ net.head.weight.T + net.head.bias)
    assert len(MLP(3, [4, 5, 6], 2, nn.ReLU).body) == 6
    assert isinstance(MLP(3, [], 2).body, nn.Sequential)


def test_start_is_glorot_with_zero_biases():
    net = MLP(300, [200], 10)
    weight = net.body[0].weight.detach()
    bound = math.sqrt(6 / 500)
    assert float(weight.abs().max()) <= bound
    assert abs(float(weight.std()) - bound / math.sqrt(3)) < 0.01 * bound
    assert not net.body[0].bias.any()
    assert not net.head.bias.any()


def test_start_at_sets_the_constant_output():
    net = MLP(3, [4], 2)
    net.start_at(torch.tensor([1.0, -2.0]))
    assert torch.allclose(net(torch.zeros(1, 3)), torch.tensor([[1.0, -2.0]]))


def test_errors():
    with pytest.raises(UsageError, match="at least 1 unit"):
        MLP(3, [0], 2)
    with pytest.raises(UsageError, match="at least 1 unit"):
        ConvolutionalEncoder((1, 8, 8), [0], 4)
    with pytest.raises(UsageError, match="at least 1 unit"):
        ConvolutionalDecoder(2, [4, 0], (1, 8, 8))
    with pytest.raises(UsageError, match="channels, height, width"):
        ConvolutionalEncoder((28, 28), [4], 2)
    with pytest.raises(UsageError, match="rows of 16 numbers were expected"):
        ConvolutionalEncoder((1, 4, 4), [4], 2)(torch.zeros(2, 15))


def test_standardized_input_sees_mean_zero_and_deviation_one():
    x = (torch.randn(100, 3) * torch.tensor([1e-3, 1.0, 1e4]) + 7).double()
    net = StandardizedInput(MLP(3, [4], 2), 3).double()
    before = net(x)
    net.fit(x)
    y = (x - x.mean(0)) / x.std(0, unbiased=False)
    assert torch.allclose(net(x), net.network(y), atol=1e-5)
    assert not torch.allclose(before, net(x), atol=1e-2)


@needs_compiler
@pytest.mark.parametrize(
    "shape",
    [(2, 6, 7), *(pytest.param(s, marks=pytest.mark.slow) for s in ((1, 8, 4), (3, 1, 8)))],
    ids=str,
)
def test_compiled_convolutional_networks_equal_themselves(shape):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = ConvolutionalEncoder(shape, [3, 4], 5)
        decoder = ConvolutionalDecoder(5, [3, 4], shape, outputs=2)
        x = torch.randn(2, math.prod(shape))
    compiled = Compiled(lambda x: decoder(encoder(x)))
    with torch.no_grad():
        assert torch.allclose(compiled("once", x), decoder(encoder(x)), atol=1e-6)
    assert compiled.note is None


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5, 4)], ids=str)
@pytest.mark.parametrize("longer", [(0, 0), (1, 0), (1, 1)], ids=str)
def test_a_doubling_is_the_transposed_convolution(size, longer):
    layer = _Doubling(3, 2, 4, 2, 1, longer).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    expected = nn.ConvTranspose2d.forward(layer, x)
    assert torch.allclose(layer(x), expected, atol=1e-14)
    tensors = (x, *layer.parameters())
    found = torch.autograd.grad(layer(x).square().sum(), tensors)
    for a, b in zip(found, torch.autograd.grad(expected.square().sum(), tensors), strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_kernels_lie_channels_last():
    layers = [*ConvolutionalEncoder((2, 8, 8), [3, 4], 5).body]
    kernels = [layer.weight for layer in layers if isinstance(layer, nn.Conv2d)]
    assert all(k.is_contiguous(memory_format=torch.channels_last) for k in kernels)
