"""Special functions that torch lacks, or has with fewer digits than the tails need."""

import torch
from torch import Tensor


def ndtr(x: Tensor) -> Tensor:
    """Phi(x), the standard normal distribution function; torch's own is 0 from x = -9 down."""
    return 0.5 * torch.erfc(-x * 2**-0.5)
