"""Special functions that torch lacks, or has with fewer digits than the tails need."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aevb.distributions.quadrature import exponential
from aevb.distributions.series import horner


class _Effort(NamedTuple):
    """How a quantile is found: how many steps of either kind, and how its derivative is summed."""

    quick: int
    """Halley's steps with torch's own gammainc."""
    exact: int
    """Newton's steps by series and quadrature, which begin at the quick ones' end."""
    terms: int
    """Of the power series."""
    rule: tuple[float, float, float]
    """First and last place and width of the double exponential rule."""


_RULE = (-3.4, 4.4, 0.1)
_SINGLE = _Effort(2, 0, 12, (-2.6, 3.4, 0.2))
"""Within 2e-8 wherever 1e-8 < u < 1 - 1e-8, which noise in single precision keeps to."""
_DOUBLE = _Effort(2, 1, 22, _RULE)
"""Within 1e-13 for the noise of double precision, 1e-17 < u < 1 - 1e-16."""
_TAILS = _Effort(0, 7, 22, _RULE)
"""To rounding for every u that is no subnormal number."""
_SPLIT = 0.1  # of log x: below it P(a, x) by its power series, above it by quadrature
_LARGE = 1e5  # a shape from which the first guess is within 1e-8, and torch's gammainc no better
_CHUNK = 1024  # quantiles at once, whose nodes then stay in the cache
_TERMS = tuple((-1.0) ** n / math.factorial(n) for n in range(1, 23))
_TAYLOR = (
    0.42278433509846713,
    0.3224670334241132,
    -0.0673523010531981,
    0.020580808427784546,
    -0.007385551028673986,
    0.0028905103307415234,
    -0.001192753911703261,
    0.0005096695247430425,
    -0.00022315475845357939,
    9.945751278180853e-05,
    -4.492623673813314e-05,
    2.050721277567069e-05,
    -9.439488275268397e-06,
    4.374866789907488e-06,
    -2.039215753801366e-06,
    9.55141213040742e-07,
    -4.492469198764566e-07,
    2.1207184805554665e-07,
    -1.0043224823968099e-07,
    4.7698101693639804e-08,
    -2.2711094608943164e-08,
    1.0838659214896955e-08,
)
"""Of log Gamma(2 + a), from a to a^22: 1 less Euler's constant, then (-1)^k (zeta(k) - 1) / k."""
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
"""B_2k / (2k (2k - 1)), of log Gamma(a) in the powers -1, -3, -5, ... of a."""
_BERNOULLI = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760)
"""B_2k / (2k), of log a - psi(a) in the powers -2, -4, -6, ... of a."""
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def as_real(count: Any, *others: Any) -> Any:
    """A tensor of whole numbers as real ones: beside it torch would cut numbers of Python down."""
    if not isinstance(count, Tensor) or count.is_floating_point():
        return count
    real = (v.dtype for v in others if isinstance(v, Tensor) and v.is_floating_point())
    return count.to(next(real, torch.get_default_dtype()))


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in their own precision: networks may run in bfloat16 around this, laws do not."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b


def log_normal_density(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """The log-density of N(loc, scale^2) at x."""
    return -0.5 * ((x - loc) / scale).square() - scale.log() - HALF_LOG_2PI


def inside_unit(z: Tensor) -> Tensor:
    """Numbers of [0, 1] held between the least normal one and the last below 1."""
    finite = torch.finfo(z.dtype)
    return z.clamp(finite.tiny, 1 - finite.eps / 2)


def logit(z: Tensor) -> Tensor:
    """log(z / (1 - z)), with digits near 1/2 as well, where it goes through 0."""
    middle = (z - 0.5).abs() < 0.25
    inner = 2 * torch.atanh(2 * torch.where(middle, z, torch.full_like(z, 0.5)) - 1)
    outer = torch.where(middle, torch.full_like(z, 0.25), z)
    return torch.where(middle, inner, torch.log(outer) - torch.log1p(-outer))


def ndtr(x: Tensor) -> Tensor:
    """Phi(x), the standard normal distribution function; torch's own is 0 from x = -9 down."""
    return 0.5 * torch.erfc(-x * 2**-0.5)


def lgamma1p(a: Tensor) -> Tensor:
    """log Gamma(1 + a) for a > 0, with all digits where a is small, too.

    Source: Abramowitz & Stegun (1964), 6.1.33.
    """
    small = a.clamp(max=0.3)
    near = horner(_TAYLOR, small) * small - torch.log1p(small)
    return torch.where(a < 0.3, near, torch.lgamma(1 + a.clamp(min=0.3)))


def lgamma_bend(x: Tensor) -> Tensor:
    """log Gamma(1 + 2 x) - 2 log Gamma(1 + x), about zeta(2) x^2 for small x."""
    small = x.clamp(max=0.1)
    series = horner([(2**k - 2) * c for k, c in enumerate(_TAYLOR, 1)], small) * small
    near = series + torch.log1p(small.square() / (1 + 2 * small))
    return torch.where(x < 0.1, near, torch.lgamma(1 + 2 * x) - 2 * torch.lgamma(1 + x))


def stirling(a: Tensor) -> Tensor:
    """log Gamma(a) - ((a - 1/2) log a - a + 1/2 log 2 pi), which is about 1 / (12 a).

    Source: Abramowitz & Stegun (1964), 6.1.40.
    """
    large = a.clamp(min=10.0)
    small = a.clamp(max=10.0)
    direct = lgamma1p(small) - (small + 0.5) * small.log() + small - HALF_LOG_2PI
    return torch.where(a < 10, direct, horner(_STIRLING, large**-2) / large)


def log_gamma_density(a: Tensor, y: Tensor) -> Tensor:
    """Log-density of y = log x at x ~ Gamma(a, 1): a y - e^y - log Gamma(a), without cancelling.

    For large a the three terms are a million times their sum; here they are written about the
    density's top instead, a (d - (e^d - 1)) with d = y - log a.
    """
    large = a.clamp(min=10.0)
    d = y - large.log()
    top = large * (d - torch.expm1(d)) + 0.5 * torch.log(large / (2 * math.pi)) - stirling(large)
    small = a.clamp(max=10.0)
    direct = small * y - y.exp() + small.log() - lgamma1p(small)
    return torch.where(a < 10, direct, top)


def digamma_minus_log(a: Tensor) -> Tensor:
    """psi(a) - log a, about -1 / (2 a). Source: Abramowitz & Stegun (1964), 6.3.18."""
    large = a.clamp(min=12.0)
    r = large**-2
    small = a.clamp(max=12.0)
    far = -0.5 / large - r * horner(_BERNOULLI, r)
    return torch.where(a < 12, torch.digamma(small) - small.log(), far)


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - e^x) for x <= 0, with all digits at either end.

    Example:
        >>> log1mexp(torch.tensor([-1e-30, -5.0]))
        tensor([-6.9078e+01, -6.7607e-03])
    """
    near = x > -0.6931471805599453
    close = torch.where(near, x, -1.0)
    far = torch.where(near, -1.0, x)
    return torch.where(near, torch.log(-torch.expm1(close)), torch.log1p(-far.exp()))


def one_minus_exp(x: Tensor) -> Tensor:
    """1 - exp(-x) for x >= 0: exact near 0, and of slope exp(-x) however far out."""
    return torch.where(x < 1, -torch.expm1(-x), 1 - torch.exp(-x))


def gamma_cdf(concentration: Tensor, x: Tensor, upper: bool = False) -> Tensor:
    """P(concentration, x), the distribution function of Gamma(concentration, 1), in all its tails.

    `upper` asks for what is left of 1, Q(concentration, x), as exact where that is small. Torch's
    gammainc is off by 2e-9 of itself for shapes of 20 to 200, and has no derivative in the shape.
    Example:
        >>> gamma_cdf(torch.tensor(1.0), torch.tensor(0.6931))
        tensor(0.5000)
    """
    a, x = torch.broadcast_tensors(concentration, x)
    p: Tensor = _GammaCdf.apply(a.double(), x.double(), upper)  # type: ignore[no-untyped-call]
    return p.to(torch.promote_types(concentration.dtype, x.dtype))


class _GammaCdf(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, x: Tensor, upper: bool) -> Tensor:
        p = in_chunks(functools.partial(_log_cdf, upper=upper), a, x.log()).exp()
        below, beyond = (1.0, 0.0) if upper else (0.0, 1.0)
        return torch.where(x == math.inf, beyond, torch.where(x <= 0, below, p))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, bool], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.upper = inputs[2]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:
        a, x = ctx.saved_tensors
        gradient = -gradient if ctx.upper else gradient
        inside = (x > 0) & torch.isfinite(x)
        x = torch.where(inside, x, 1.0)
        y = x.log()
        by_y = torch.where(inside, log_gamma_density(a, y).exp(), 0.0)
        by_a = None
        if ctx.needs_input_grad[0]:
            slope = in_chunks(functools.partial(_slope, effort=_TAILS), a, y)
            by_a = -gradient * slope * by_y
        return by_a, gradient * by_y / x, None


def _log_cdf(a: Tensor, y: Tensor, upper: bool) -> Tensor:
    """log P(a, e^y), or log Q(a, e^y): below the split what is left of P is far from nothing."""
    value, _, _ = _series(a, y.clamp(max=_SPLIT), len(_TERMS))
    tails = _tails(a, torch.where(torch.isfinite(y), y, _SPLIT).clamp(min=_SPLIT))
    return torch.where(y < _SPLIT, log1mexp(value) if upper else value, tails[int(upper)])


def gamma_quantile(concentration: Tensor, u: Tensor) -> Tensor:
    """The quantile of Gamma(concentration, 1): the z with P(concentration, z) = u.

        dz/du = 1 / p(z),   dz/da = -(dP/da) / p(z)

    A z below the smallest normal number of the dtype is given as that number, as torch's draws.
    Shapes: concentration and u broadcast; the result is of their common dtype, and exact to it.
    Errors: none; u = 0 and 1 give that number and infinity, u outside [0, 1] NaN.
    Source: Figurnov, Mohamed & Mnih (2018), equation 6.
    Example:
        >>> gamma_quantile(torch.tensor(1.0), torch.tensor(0.5))
        tensor(0.6931)
    """
    dtype = torch.promote_types(concentration.dtype, u.dtype)
    z = log_gamma_quantile(concentration, u).exp().to(dtype)
    return z.clamp(min=torch.finfo(dtype).tiny)


def log_gamma_quantile(concentration: Tensor, u: Tensor, tails: bool = False) -> Tensor:
    """The logarithm of `gamma_quantile`, which goes on where the quantile itself underflows.

    In double precision, but to the digits of its arguments' dtype: eight for single precision,
    and all of them for double. Both are for u as noise has it, no nearer to 0 or 1 than rounding;
    `tails` takes every u, at three times the cost.
    Example:
        >>> log_gamma_quantile(torch.tensor(1e-3), torch.tensor(0.5))
        tensor(-693.7235, dtype=torch.float64)
    """
    a, u = torch.broadcast_tensors(concentration, u)
    single = torch.promote_types(a.dtype, u.dtype) != torch.float64
    effort = _TAILS if tails else _SINGLE if single else _DOUBLE
    y: Tensor = _LogGammaQuantile.apply(a.double(), u.double(), effort)  # type: ignore[no-untyped-call]
    return y


class _LogGammaQuantile(torch.autograd.Function):
    """Steps without a tape, and the implicit derivatives at their end."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, u: Tensor, effort: _Effort) -> Tensor:
        y = _start(a, u)
        if effort.quick:
            y = _approach(a, u, y, effort)
        if effort.exact:
            y = in_chunks(functools.partial(_polish, steps=effort.exact), a, u, y)
        y = torch.where(u == 0, -math.inf, torch.where(u == 1, math.inf, y))
        return torch.where((u < 0) | (u > 1), math.nan, y)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, _Effort], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)
        ctx.effort = inputs[2]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        a, y = ctx.saved_tensors
        by_a = by_u = None
        if ctx.needs_input_grad[0]:
            by_a = gradient * in_chunks(functools.partial(_slope, effort=ctx.effort), a, y)
        if ctx.needs_input_grad[1]:
            by_u = gradient * torch.exp(-log_gamma_density(a, y))
        return by_a, by_u, None


def in_chunks(function: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
    """An elementwise function of tensors of one shape, by parts that stay in the cache.

    For functions that need a hundred times their arguments' memory in between. A compiled step
    fuses them into one loop anyway, and has them whole.
    Example:
        >>> in_chunks(torch.add, torch.ones(3), torch.ones(3))
        tensor([2., 2., 2.])
    """
    if torch.compiler.is_compiling() or arguments[0].is_cuda or arguments[0].numel() <= _CHUNK:
        return function(*arguments)
    parts = zip(*(x.reshape(-1).split(_CHUNK) for x in arguments), strict=True)
    return torch.cat([function(*part) for part in parts]).reshape(arguments[0].shape)


def _approach(a: Tensor, u: Tensor, y: Tensor, effort: _Effort) -> Tensor:
    """Halley's steps for log z on log P(a, z) = log u, or log Q(a, z) = log(1 - u) above 1/2.

    Where z is so small that log P is a straight line, or so little of u is left that torch's own
    functions are not sure of it, the guess is kept.
    """
    small = u < 0.5
    target = torch.where(small, u.log(), torch.log1p(-u))
    log_a, top = a.log(), 0.5 * torch.log(a / (2 * math.pi)) - stirling(a)
    known = (a < _LARGE) & (y > -80.0) & (target > -650.0)
    for _ in range(effort.quick):
        x, d = y.exp(), y - log_a
        p = torch.special.gammainc(a, x)
        # Of a double u near 1 the difference would not leave enough.
        rest = torch.special.gammaincc(a, x) if effort.exact else 1 - p
        p = torch.where(small, p, rest).clamp(min=1e-305).log()
        inverse = torch.exp(p - a * (d - torch.expm1(d)) - top)
        inverse = torch.where(small, inverse, -inverse)  # 1 over the derivative of log P, log Q
        newton = (target - p) * inverse
        bend = 1 + 0.5 * newton * ((a - x) - 1 / inverse)
        step = (newton / bend.clamp(0.5, 2.0)).clamp(-3.0, 3.0)
        y = torch.where(known & torch.isfinite(step), y + step, y)
    return y


def _polish(a: Tensor, u: Tensor, y: Tensor, steps: int) -> Tensor:
    for _ in range(steps):
        y = y + _step(a, u, y)
    return y


def _start(a: Tensor, u: Tensor) -> Tensor:
    """A first guess of log z: by Wilson & Hilferty, or by the leading terms of either tail."""
    lowest = (u.log() + lgamma1p(a)) / a  # from P(a, x) <= x^a / Gamma(1 + a)
    normal = torch.special.ndtri(u)
    root = 1 - 1 / (9 * a) + normal / (3 * a.sqrt())
    cubic = a.log() + 3 * root.clamp(min=1e-3).log()
    tail = -torch.log1p(-u) - lgamma1p(a) + a.log()  # from Q(a, x) ~ x^(a-1) e^-x / Gamma(a)
    tail = tail + (a - 1) * tail.clamp(min=1.0).log()
    upper = torch.where(tail > 1.1, tail.clamp(min=1.1).log(), lowest)
    middle = torch.where(root > 1e-3, torch.maximum(lowest, cubic), lowest)
    return torch.where(a < 1, torch.where(u > 0.5, upper, lowest), middle)


def _step(a: Tensor, u: Tensor, y: Tensor) -> Tensor:
    """Newton's step for log z on log P(a, z) = log u, or log Q(a, z) = log(1 - u) above 1/2."""
    value, slope, _ = _series(a, y.clamp(max=_SPLIT), len(_TERMS))
    series = ((u.log() - value) / slope).clamp(max=1.0)
    below, above = _tails(a, y.clamp(min=_SPLIT))
    density = log_gamma_density(a, y.clamp(min=_SPLIT))
    lower = (u.log() - below) * torch.exp(below - density)
    upper = (above - torch.log1p(-u)) * torch.exp(above - density)
    upper = torch.log1p(upper.clamp(min=-0.9))  # log Q is straighter in z than in log z
    return torch.where(y < _SPLIT, series, torch.where(u > 0.5, upper, lower))


def _series(a: Tensor, y: Tensor, terms: int) -> tuple[Tensor, Tensor, Tensor]:
    """log P(a, e^y) and its derivatives in y and in a, for e^y up to about 1.

    P(a, x) = x^a / Gamma(1 + a) (1 + a sum_n (-x)^n / (n! (a + n)))
    """
    n = torch.arange(1, terms + 1, dtype=a.dtype, device=a.device)
    sign = torch.tensor(_TERMS[:terms], dtype=a.dtype, device=a.device)
    shifted = a.unsqueeze(-1) + n
    divided = (n * y.unsqueeze(-1)).exp() / shifted
    total = divided @ sign
    whole = 1 + a * total
    value = a * y - lgamma1p(a) + torch.log1p(a * total)
    slope = a * (1 + (divided @ (n * sign)) / whole)
    by_a = (total - a * ((divided / shifted) @ sign)) / whole
    return value, slope, y - torch.digamma(1 + a) + by_a


def _tails(a: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """log P(a, e^y) and log Q(a, e^y), for e^y from about 1: the smaller one by quadrature."""
    side = torch.where(y < a.log(), -1.0, 1.0).to(a.dtype)
    smaller = log_gamma_density(a, y) + _integral(a, y, side, None, _RULE).log()
    larger = torch.log1p(-smaller.clamp(max=-0.3).exp())
    return torch.where(side < 0, smaller, larger), torch.where(side < 0, larger, smaller)


def _integral(
    a: Tensor, y: Tensor, side: Tensor, center: Tensor | None, rule: tuple[float, float, float]
) -> Tensor:
    """One side of the gamma law over its density at z = e^y, in w, the distance from y of log z'.

        int_0^inf exp(side a w - z (e^(side w) - 1)) dw

    and with the factor |y + side w - center| where a center is given. By the double exponential
    rule in w below z and in z' / z - 1 above, where either integrand falls off as e^-v.
    """
    place, weight = exponential(*rule, a)
    x, below = y.exp(), (side < 0).unsqueeze(-1)
    lean = side * (x - a)
    scale = 2 / (lean + torch.sqrt(lean.square() + 4 * x))
    node = scale.unsqueeze(-1) * place
    w = torch.where(below, node, torch.log1p(node))
    grown = torch.where(below, torch.expm1(-node), node)
    power = torch.where(side < 0, -a, a - 1).unsqueeze(-1)
    term = torch.exp(power * w - x.unsqueeze(-1) * grown)
    if center is None:
        return scale * (term @ weight)
    return scale * (side * (y - center) * (term @ weight) + (term * w) @ weight)


def _slope(a: Tensor, y: Tensor, effort: _Effort) -> Tensor:
    """dy/da at fixed u, y = log z: -(dP/da) / (z p(z)).

    From z = 1 on it is an integral of one sign, on the side of psi(a) on which y lies:

        int p(z') |log z' - psi(a)| dz' / (z p(z)) over z' < z, or z' > z
    """
    _, slope, by_a = _series(a, y.clamp(max=_SPLIT), effort.terms)
    above = torch.where(torch.isfinite(y), y.clamp(min=_SPLIT), _SPLIT)
    center = torch.digamma(a)
    side = torch.where(above < center, -1.0, 1.0).to(a.dtype)
    return torch.where(y < _SPLIT, -by_a / slope, _integral(a, above, side, center, effort.rule))
