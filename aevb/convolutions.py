"""Convolutions that halve an image and those that double it, written as matrix products.

    halve    y[h, w] = b + sum_{i, j < 4} W_ij x[2h + i - 1, 2w + j - 1]
    double   y[2h + a, 2w + c] = b + sum_{i, j < 2} V_ijac x[h + a + i - 1, w + c + j - 1],
             V_ijac = W_{3-a-2i, 3-c-2j}

A kernel of 4 with stride 2 takes 16 cells to each of the smaller image, so that a halving is one
product of patches (cells, 16 C) with the kernel (16 C, C'); in a doubling each of the 4 places
(a, c) of a cell sees 2 x 2 cells, and one product serves all. Images lie channels last, (N, H, W,
C), where a patch is made of whole runs of memory. In a compiled graph on a processor this is faster
than its convolutions, which are made for more channels than such networks have.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def halve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The convolution of kernel 4, stride 2 and padding 1 of images with even sides.

    Shapes: x (N, H, W, C), weight (C', C, 4, 4), bias (C',), to (N, H/2, W/2, C').
    Source: torch.nn.functional.conv2d, whose weight this is.
    Example:
        >>> halve(torch.ones(1, 2, 2, 1), torch.ones(3, 1, 4, 4), torch.zeros(3)).flatten()
        tensor([4., 4., 4.])
    """
    n, height, width, channels = x.shape
    padded = F.pad(x, (0, 0, 1, 1, 1, 1))
    cells = [
        padded[:, i : i + height - 1 : 2, j : j + width - 1 : 2] for i in range(4) for j in range(4)
    ]
    patches = torch.stack(cells, 3).reshape(-1, 16 * channels)
    kernel = weight.permute(2, 3, 1, 0).reshape(16 * channels, -1)
    return (patches @ kernel + bias).view(n, height // 2, width // 2, -1)


def double(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The transposed convolution of kernel 4, stride 2 and padding 1, to an image twice as large.

    Shapes: x (N, H, W, C), weight (C, C', 4, 4), bias (C',), to (N, 2H, 2W, C').
    Source: torch.nn.functional.conv_transpose2d, whose weight this is.
    Example:
        >>> double(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 4, 4), torch.zeros(1)).flatten()
        tensor([1., 1., 1., 1.])
    """
    n, height, width, channels = x.shape
    padded = F.pad(x, (0, 0, 1, 1, 1, 1))
    cells = [padded[:, i : i + height + 1, j : j + width + 1] for i in range(2) for j in range(2)]
    patches = torch.stack(cells, 3).reshape(-1, 4 * channels)
    # W_{3-a-2i, 3-c-2j} as (i, j; C; C'; a, c): turned about, split into what i and a count
    turned = weight.flip(2, 3).unflatten(3, (2, 2)).unflatten(2, (2, 2))
    kernel = turned.permute(2, 4, 0, 1, 3, 5).reshape(4 * channels, -1)
    y = (patches @ kernel).view(n, height + 1, width + 1, -1, 2, 2)
    rows = [
        torch.stack([y[:, a : a + height, c : c + width, :, a, c] for c in range(2)], 3)
        for a in range(2)
    ]
    return torch.stack(rows, 2).reshape(n, 2 * height, 2 * width, -1) + bias
