"""The networks of the comparison in plain PyTorch, for the workers of its libraries."""

import itertools
import math
from collections.abc import Callable
from functools import partial

import torch
from common import IMAGE, Maker, Spec, Task, first_weights
from torch import Tensor, nn


def nets(spec: Spec) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder, rows (N, 784) to (N, 2 D), and decoder, (..., D) to logits (..., 784)."""
    if spec.channels:
        return _convolutional(spec)
    pair = (_mlp(spec.layers("encoder")), _mlp(spec.layers("decoder")))
    weights = first_weights(spec)
    for name, net in zip(("encoder", "decoder"), pair, strict=True):
        linear = [layer for layer in net if isinstance(layer, nn.Linear)]
        for k, layer in enumerate(linear):
            layer.weight.data.copy_(torch.from_numpy(weights[f"{name}.{k}.weight"]))
            layer.bias.data.copy_(torch.from_numpy(weights[f"{name}.{k}.bias"]))
    return pair


def _mlp(widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(widths):
        layers += [nn.Linear(n_in, n_out), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def _convolutional(spec: Spec) -> tuple[nn.Sequential, nn.Sequential]:
    """4x4 kernels with stride 2, ReLU, one linear layer at the narrow end."""
    channels = (IMAGE[0], *spec.channels)
    side = IMAGE[1] // 2 ** len(spec.channels)
    narrow = (channels[-1], side, side)
    down: list[nn.Module] = [nn.Unflatten(1, IMAGE)]
    for c_in, c_out in itertools.pairwise(channels):
        down += [nn.Conv2d(c_in, c_out, 4, 2, 1), nn.ReLU()]
    down += [nn.Flatten(), nn.Linear(math.prod(narrow), 2 * spec.latents)]
    up: list[nn.Module] = [nn.Linear(spec.latents, math.prod(narrow)), nn.Unflatten(1, narrow)]
    for c_in, c_out in zip(channels[:0:-1], channels[-2::-1], strict=True):
        up += [nn.ReLU(), nn.ConvTranspose2d(c_in, c_out, 4, 2, 1)]
    up.append(nn.Flatten())
    pair = nn.Sequential(*down), nn.Sequential(*up)
    torch.manual_seed(0)
    for layer in (*pair[0], *pair[1]):
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return pair


def on_threads(makers: dict[str, Maker], threads: int) -> dict[str, Maker]:
    """Each candidate on one thread, and on all where there are more."""

    def make(maker: Callable[[Spec], Task], count: int, spec: Spec) -> Task:
        torch.set_num_threads(count)
        return maker(spec)

    return {
        f"{name}, {count} thread{'s' * (count > 1)}": partial(make, maker, count)
        for name, maker in makers.items()
        for count in sorted({1, threads})
    }


def reparameterize(moments: Tensor, samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draws z (S, N, D), means and log-variances (N, D)."""
    mean, log_variance = moments.chunk(2, dim=-1)
    noise = torch.randn(samples, *mean.shape, device=mean.device)
    return mean + torch.exp(0.5 * log_variance) * noise, mean, log_variance
