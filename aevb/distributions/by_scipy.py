"""Functions of scipy.special with their exact derivatives, and Student's law, which takes them."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from aevb.distributions.series import lgamma_half_step, log1p_square


class ScipyFunction(Function):
    """A function of numbers that scipy has; its arguments come broadcast to one shape."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @classmethod
    def over(cls, *inputs: Tensor) -> Tensor:
        """The function of arguments of any shapes that broadcast."""
        result: Tensor = cls.apply(*torch.broadcast_tensors(*inputs))  # type: ignore[no-untyped-call]
        return result

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> Any:
        front = (
            x.unsqueeze(0) if dim is None else x.movedim(dim, 0)
            for x, dim in zip(inputs, in_dims, strict=True)
        )
        return cls.over(*front), 0


def by_scipy(name: str, *inputs: Tensor) -> Tensor:
    """scipy.special's function of that name, in double precision on the processor."""
    import scipy.special

    arrays = (x.detach().to("cpu", torch.float64).numpy() for x in inputs)
    result = np.asarray(getattr(scipy.special, name)(*arrays))
    return torch.from_numpy(result).to(inputs[-1])


_FAR = 1e9
"""From df + 1 times this on, F(-x) = x p(x) / df to rounding; scipy may be lost out there."""


class _StudentCdf(ScipyFunction):
    @staticmethod
    def forward(df: Tensor, x: Tensor) -> Tensor:
        nu, y = df.double(), x.double().clamp(min=-torch.finfo(torch.float64).max)
        end = -_FAR * (nu + 1)
        far = y < end
        tail = torch.where(far, y, end)
        tail = (student_log_density(nu, tail) + (-tail).log() - nu.log()).exp()
        return torch.where(
            x == -math.inf, 0.0, torch.where(far, tail, by_scipy("stdtr", nu, y))
        ).to(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor]:
        df, x, _ = ctx.saved_tensors
        slope = _student_slope(df, x) if ctx.needs_input_grad[0] else None
        return None if slope is None else grad * slope, grad * student_log_density(df, x).exp()


class _StudentQuantile(ScipyFunction):
    @staticmethod
    def forward(df: Tensor, u: Tensor) -> Tensor:
        nu, tail = df.double(), torch.minimum(u, 1 - u).double()
        height = student_log_density(nu, torch.zeros_like(nu)) + 0.5 * (nu - 1) * nu.log()
        size = ((height - tail.log()) / nu).exp()
        near = by_scipy("stdtrit", nu, tail).abs()
        size = torch.where(size > _FAR * (nu + 1), size, near)
        return torch.where(u < 0.5, -size, size).to(u)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor]:
        df, _, x = ctx.saved_tensors
        by_u = grad * (-student_log_density(df, x)).exp()
        return -by_u * _student_slope(df, x) if ctx.needs_input_grad[0] else None, by_u


def _student_slope(df: Tensor, x: Tensor) -> Tensor:
    """dF/d df, which has no closed form: five points of F, some eleven digits of it.

    In the lower tail, where F has all its digits, and with the other sign above 0.
    """
    h, below = 1e-3, -x.double().abs()
    wide, narrow = (
        student_cdf(df.double() * (1 + k * h), below)
        - student_cdf(df.double() * (1 - k * h), below)
        for k in (2, 1)
    )
    slope = (8 * narrow - wide) / (12 * h * df.double())
    return torch.where(x > 0, -slope, slope).to(x)


def student_cdf(df: Tensor, x: Tensor) -> Tensor:
    """Student's distribution function, exact in x; its derivative in df is by differences."""
    return _StudentCdf.over(df, x)


def student_quantile(df: Tensor, u: Tensor) -> Tensor:
    """The inverse of `student_cdf` in x."""
    return _StudentQuantile.over(df, u)


class _ScaledExp1(ScipyFunction):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        # From 50 on scipy's E_1 goes under, and its hyperu, the same function, is exact there.
        small = x.clamp(max=50.0)
        large = by_scipy("hyperu", torch.ones_like(x), torch.ones_like(x), x.clamp(min=50.0))
        return torch.where(x < 50, by_scipy("exp1", small) * small.exp(), large)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, _ = ctx.saved_tensors
        result: Tensor = grad * (_ScaledExp1.over(x.double()) - 1 / x.double()).to(x)
        return result


def scaled_exp1(x: Tensor) -> Tensor:
    """e^x E_1(x) for positive x, E_1 the exponential integral."""
    return _ScaledExp1.over(x)


def student_log_density(df: Tensor, x: Tensor) -> Tensor:
    """The log-density of Student's standard t."""
    normalizer = lgamma_half_step(df / 2) - 0.5 * (df.log() + math.log(math.pi))
    return normalizer - 0.5 * (df + 1) * log1p_square(x / df.sqrt())
