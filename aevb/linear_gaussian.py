"""The oracle: the linear-Gaussian model, of which everything is known in closed form.

    p(x, z) = N(z; 0, I) N(x; W z + b, Psi),  Psi diagonal
    p(x) = N(x; b, W W^T + Psi)                                   the evidence
    p(z given x) = N(z; m, G),  G = (I + W^T Psi^-1 W)^-1,  m = G W^T Psi^-1 (x - b)

One noise for all elements is probabilistic PCA, one for each is factor analysis.
"""

import copy
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch import distributions as td
from torch.distributions import Distribution

from aevb.conditional import Conditional, standard_normal
from aevb.distributions.reparameterization import base_of
from aevb.errors import DataError, UsageError
from aevb.families import MultivariateNormal, Normal
from aevb.model import Model
from aevb.networks import MLP
from aevb.posterior import Amortized, full_covariance, mean_field

GAIN_OF_A_STEP = 1e-10
"""Nats per datum: what one step of EM must still add for another to be made."""
MOST_STEPS = 100_000
LEAST_SHARE = 1e-9
"""Of an element's variance that its noise keeps: without a floor it may go to zero."""
SIZES = (0.01, 1.0, 30.0, 1000.0)
"""Of the points at which a decoder is asked whether it is affine."""
POINTS = 8


class LinearGaussian(Model):
    """A linear decoder with Gaussian noise: a model like any other, with the truth at hand.

        p(x, z) = N(z; 0, I) N(x; W z + b, Psi)

    Shapes: W `weight` (X, D), b `offset` (X,), diagonal of Psi `variance` (X,): one number for all
    of them where `noise_shape` is (), one for each where it is (X,).
    Units: nats. Errors: UsageError for another noise shape; DataError for rows of another length.
    Source: Tipping & Bishop (1999), "Probabilistic principal component analysis"; Rubin & Thayer
    (1982), "EM algorithms for ML factor analysis".
    Example:
        >>> model = LinearGaussian(2, 5)
        >>> model.log_prob(torch.zeros(3, 5)).shape
        torch.Size([3])
    """

    def __init__(self, latent_dim: int, width: int, noise_shape: tuple[int, ...] = ()) -> None:
        _check_noise(noise_shape, width)
        family = Normal(noise_shape=tuple(noise_shape))
        super().__init__(
            standard_normal(latent_dim), Conditional(MLP(latent_dim, [], width), family)
        )
        self.latent_dim = latent_dim
        self.width = width
        self.noise_shape = tuple(noise_shape)

    @property
    def weight(self) -> Tensor:
        """W, (X, D): what each latent dimension does to each element."""
        return self._parts.network.head.weight  # type: ignore[no-any-return]

    @property
    def offset(self) -> Tensor:
        """b, (X,): the mean of the data."""
        return self._parts.network.head.bias  # type: ignore[no-any-return]

    @property
    def variance(self) -> Tensor:
        """The diagonal of Psi, (X,), of one number X times where the noise is shared."""
        return torch.exp(self._parts.family.log_variance).expand(self.width)

    @property
    def _parts(self) -> Any:
        return self.likelihood

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) = log N(x; b, W W^T + Psi), (..., X) to (...) nats, differentiable.

            -1/2 (|x - b - W m|^2_Psi + |m|^2 + log det Psi + log det G^-1 + X log 2 pi)

        By Woodbury's identity, as squares that add up: no digits cancel where noise is small.
        """
        if x.shape[-1:] != (self.width,):
            raise DataError(
                f"the model is over rows of {self.width} numbers, found {tuple(x.shape)}"
            )
        mean, factor, error = self._posterior(x)
        squares = (error.square() / self.variance).sum(-1) + mean.square().sum(-1)
        diagonal = factor.diagonal().log().sum() * 2 + self.variance.log().sum()
        return -0.5 * (squares + diagonal + self.width * math.log(2 * math.pi))

    def _posterior(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """m (..., D), R (D, D) with R^T R = G^-1, and x - b - W m (..., X)."""
        q, r = _root(self.weight, self.variance)
        rest = x - self.offset
        along = ((rest / self.variance.sqrt()) @ q).reshape(-1, self.latent_dim)
        mean = torch.linalg.solve_triangular(r, along.mT, upper=True).mT
        mean = mean.reshape(*x.shape[:-1], self.latent_dim)
        return mean, r, rest - mean @ self.weight.mT

    def posterior_given(self, x: Tensor) -> td.MultivariateNormal:
        """p(z given x) = N(m, G), batch (N,), of rows (N, X)."""
        mean, factor = self._posterior(x)[0], self._deviations()
        return td.MultivariateNormal(mean, scale_tril=factor, validate_args=False)

    def exact_encoder(self) -> Amortized:
        """p(z given x) at the present parameters, as a posterior that can be trained and saved.

        It is `full_covariance` of a linear network: the mean is affine in x, the covariance G one
        for all data. Its divergence from the prior is in closed form.
        """
        gain, factor = self._gain(), self._deviations().detach()
        raw = MultivariateNormal().encode(torch.zeros_like(factor[0]), factor)
        return full_covariance(self._encoder(gain, raw[self.latent_dim :]))

    def best_mean_field(self) -> Amortized:
        """Of all diagonal Gaussians the one nearest to p(z given x), for each datum.

            N(m, diag(v)),  v_d = 1 / (G^-1)_dd

        Source: Bishop (2006), "Pattern recognition and machine learning", section 10.1.2.
        """
        gain = self._gain()
        precision = self.posterior_precision().diagonal()
        return mean_field(self._encoder(gain, -precision.log()))

    def mean_field_gap(self) -> Tensor:
        """log p(x) less the bound with `best_mean_field`: () nats, the same for every x.

        KL(q || p(z given x)) = 1/2 (sum_d log (G^-1)_dd - log det G^-1)
        """
        precision = self.posterior_precision().detach()
        return 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))

    def posterior_precision(self) -> Tensor:
        """G^-1 = I + W^T Psi^-1 W, (D, D): the same for every x."""
        return _explained(self.weight, self.variance)[1]

    def put(self, weight: Tensor, offset: Tensor, variance: Tensor) -> None:
        """Set the numbers: W (X, D), b (X,), and the noise in the shape that the model has it."""
        with torch.no_grad():
            self.weight.copy_(weight)
            self.offset.copy_(offset)
            self._parts.family.log_variance.copy_(variance.log())

    def _gain(self) -> Tensor:
        """G W^T Psi^-1, (D, X)."""
        with torch.no_grad():
            q, r = _root(self.weight, self.variance)
            gain: Tensor = torch.linalg.solve_triangular(r, q.mT, upper=True)
            return gain / self.variance.sqrt()

    def _deviations(self) -> Tensor:
        """The Cholesky factor of G, (D, D): from that of G^-1 with the codes in reverse."""
        inverse = _root(self.weight.flip(1), self.variance)[1].flip(0, 1)
        one = torch.eye(self.latent_dim).to(inverse)
        factor: Tensor = torch.linalg.solve_triangular(inverse, one, upper=False)
        return factor

    def _encoder(self, gain: Tensor, constants: Tensor) -> MLP:
        """x to m = gain (x - b), and to constants behind it."""
        with torch.no_grad():
            network = MLP(self.width, [], self.latent_dim + len(constants)).to(gain)
            network.head.weight.zero_()[: self.latent_dim] = gain
            network.head.bias.copy_(torch.cat([-gain @ self.offset, constants]))
        return network


def _check_noise(noise_shape: tuple[int, ...], width: int) -> None:
    if tuple(noise_shape) not in ((), (width,)):
        raise UsageError(
            f"the noise of a linear-Gaussian model has shape () or ({width},), "
            f"found {tuple(noise_shape)}"
        )


def _explained(weight: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Psi^-1 W, (X, D), and G^-1 = I + W^T Psi^-1 W, (D, D)."""
    scaled = weight / variance.unsqueeze(-1)
    return scaled, torch.eye(weight.shape[1]).to(weight) + weight.mT @ scaled


def _root(weight: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Q (X, D) and the upper triangle R (D, D), R^T R = G^-1, of (I; Psi^-1/2 W) = (..; Q) R.

    W^T Psi^-1 W itself has squares, whose digits do not suffice where noise is small.
    """
    one = torch.eye(weight.shape[1]).to(weight)
    q, r = torch.linalg.qr(torch.cat([one, weight / variance.sqrt().unsqueeze(-1)]))
    sign = r.diagonal().sign()
    return q[len(one) :] * sign, r * sign.unsqueeze(-1)


def linear_gaussian(weight: ArrayLike, offset: ArrayLike, variance: ArrayLike) -> LinearGaussian:
    """The linear-Gaussian model of given numbers, in their dtype.

    Shapes: weight W (X, D), offset b (X,), variance () or (X,), the diagonal of Psi.
    Errors: UsageError for shapes that do not fit, or a variance that is not positive.
    Source: Tipping & Bishop (1999), equation 2.
    Example:
        >>> model = linear_gaussian([[3.0], [4.0]], [0.0, 0.0], 1.0)
        >>> round(float(model.log_prob(torch.zeros(2)).detach().exp()), 4)  # 1 / (2 pi sqrt(26))
        0.0312
    """
    w = torch.as_tensor(weight)
    w = w if w.is_floating_point() else w.to(torch.get_default_dtype())
    b, noise = (torch.as_tensor(given, dtype=w.dtype).to(w) for given in (offset, variance))
    width = w.shape[0] if w.ndim == 2 else -1
    if tuple(b.shape) != (width,) or tuple(noise.shape) not in ((), (width,)):
        raise UsageError(
            "a linear-Gaussian model needs a weight (X, D), an offset (X,) and a variance () or "
            f"(X,), found {tuple(w.shape)}, {tuple(b.shape)} and {tuple(noise.shape)}"
        )
    if not bool((noise > 0).all()):
        raise UsageError(f"a variance must be positive, found {float(noise.min())}")
    with torch.random.fork_rng(devices=[]):  # weights that are replaced at once
        model = LinearGaussian(w.shape[1], width, tuple(noise.shape)).to(w)
    model.put(w, b, noise)
    return model


def maximum_likelihood(
    x: ArrayLike, latent_dim: int, noise_shape: tuple[int, ...] = ()
) -> LinearGaussian:
    """The linear-Gaussian model of `latent_dim` dimensions under which the data are most probable.

        one noise for all, ():  W = U (L - s^2 I)^1/2,  s^2 the mean of the eigenvalues left out
        one for each, (X,):     EM until a step adds less than 1e-10 nats per datum

    U, L are the leading eigenvectors and eigenvalues of the covariance of x, with divisor N. The
    log-likelihood never falls from one step of EM to the next.
    Shapes: x (N, X), in float64 inside and for the result.
    Errors: UsageError for a noise of another shape, or too many latent dimensions; DataError for a
    cell that is missing, a column that does not vary, or rows that leave no noise.
    Source: Tipping & Bishop (1999), equations 7 and 8; Rubin & Thayer (1982).
    Example:
        >>> model = maximum_likelihood([[0.0, 0.0], [2.0, 1.0], [4.0, 5.0]], 1)
        >>> model.offset.tolist()
        [2.0, 2.0]
    """
    rows = torch.as_tensor(np.asarray(x, dtype=np.float64))
    if rows.ndim != 2 or not 0 < latent_dim < rows.shape[1]:
        raise UsageError(
            f"rows (N, X) need between 1 and X - 1 latent dimensions, found rows of shape "
            f"{tuple(rows.shape)} and {latent_dim} dimensions"
        )
    _check_noise(noise_shape, rows.shape[1])
    if not bool(rows.isfinite().all()):
        raise DataError("cells of the rows are missing or not finite: fill them, or leave them out")
    mean = rows.mean(0)
    covariance = (rows - mean).mT @ (rows - mean) / len(rows)
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0), vectors.flip(1)
    variance = values[latent_dim:].mean()
    if not variance > values[0] * 1e-14:
        raise DataError(
            f"the rows lie in {latent_dim} dimensions, which leaves no noise: choose fewer latent "
            "dimensions, or give more rows"
        )
    scale = (values[:latent_dim] - variance).clamp_min(0).sqrt()
    model = linear_gaussian(vectors[:, :latent_dim] * scale, mean, variance)
    if not noise_shape:
        return model
    still = torch.nonzero(covariance.diagonal() == 0)
    if len(still):
        raise DataError(f"column {int(still[0]) + 1} of the rows does not vary: leave it out")
    return _by_em(model.weight.detach(), mean, variance.expand(len(mean)), covariance)


def _by_em(weight: Tensor, mean: Tensor, variance: Tensor, covariance: Tensor) -> LinearGaussian:
    """Steps of EM from a start until they gain nothing."""
    before = -math.inf
    for _ in range(MOST_STEPS):
        weight, variance, reached = em_step(weight, variance, covariance)
        if reached - before < GAIN_OF_A_STEP:
            break
        before = reached
    return linear_gaussian(weight, mean, variance)


def em_step(weight: Tensor, variance: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor, float]:
    """One step of EM for factor analysis, and the mean log p(x) at the parameters it began with.

        E: B = G W^T Psi^-1,  C_xz = S B^T,  C_zz = G + B S B^T
        M: W = C_xz C_zz^-1,  Psi = diag(S - W C_xz^T)

    Where one noise is shared by all elements, as in probabilistic PCA, it is their mean.
    Shapes: weight (X, D), variance (X,), or () where it is shared, covariance S (X, X) of the data
    around their mean.
    Units: nats per datum. Source: Rubin & Thayer (1982), equations 5 to 7; Tipping & Bishop (1999),
    appendix B.
    Example:
        >>> _, noise, _ = em_step(torch.zeros(2, 1), torch.ones(2), torch.eye(2) * 3)
        >>> noise
        tensor([3., 3.])
    """
    shared = variance.ndim == 0
    variance = variance.expand(len(weight))
    scaled, precision = _explained(weight, variance)
    factor = torch.linalg.cholesky(precision)
    gain = torch.cholesky_solve(scaled.mT, factor)
    with_code = covariance @ gain.mT
    codes = torch.cholesky_inverse(factor) + gain @ with_code
    # tr(C^-1 S) by the same identity as the density of a row.
    trace = (covariance.diagonal() / variance).sum() - (scaled * with_code).sum()
    log_det = variance.log().sum() + 2 * factor.diagonal().log().sum()
    reached = -0.5 * (trace + log_det + len(variance) * math.log(2 * math.pi))
    new = torch.linalg.solve(codes, with_code.mT).mT
    own = covariance.diagonal()
    rest = own - (new * with_code).sum(-1)
    own, rest = (own.mean(), rest.mean()) if shared else (own, rest)
    return new, torch.maximum(rest, own * LEAST_SHARE), float(reached)


def as_linear_gaussian(model: Model) -> LinearGaussian | None:
    """The model as a linear-Gaussian one, where it is one, found by probing; None where it is not.

        z = m + L u,  u ~ N(0, I):   W = (mean at m + L e_d) - (mean at m),  b = mean at m

    The prior must be one Gaussian, diagonal or full; the likelihood a diagonal Gaussian over flat
    rows whose mean is affine in z, and whose variance is one, at random points of sizes up to 1000
    prior deviations. Then the log-joint densities of both must agree at random x and z. The result
    is in float64, over u instead of z.
    Example:
        >>> from aevb import MLP, gaussian
        >>> as_linear_gaussian(Model(standard_normal(2), gaussian(MLP(2, [4], 6)))) is None
        True
        >>> shared = gaussian(MLP(2, [], 3), noise_shape=())
        >>> as_linear_gaussian(Model(standard_normal(2), shared)).width
        3
    """
    with torch.no_grad():
        prior = affine_of(model.prior())
        if prior is None or not _is_diagonal(model.likelihood(prior[0].unsqueeze(0))):
            return None
        model = copy.deepcopy(model).double().eval()
        found = affine_of(model.prior())
        if found is None:
            return None
        middle, factor = found
        source = torch.Generator().manual_seed(0)
        u = torch.randn(len(SIZES), POINTS, len(middle), generator=source).double()
        u = (u * torch.tensor(SIZES).reshape(-1, 1, 1)).flatten(0, 1).to(middle)
        units = torch.eye(len(middle)).to(middle)
        made = model.likelihood(middle + torch.cat([units[:1] * 0, units, u]) @ factor.mT)
        means, deviations = made.base_dist.loc, made.base_dist.scale
        offset, weight = means[0], (means[1 : 1 + len(units)] - means[0]).mT
        tolerance = 1e3 * torch.finfo(means.dtype).eps
        size = offset.abs() + u.abs() @ weight.abs().mT
        affine = (means[1 + len(units) :] - offset - u @ weight.mT).abs() <= tolerance * size
        one = (deviations - deviations[0]).abs() <= tolerance * deviations[0]
        if not bool(affine.all() and one.all()):
            return None
        variance = deviations[0].square()
        shared = bool((variance == variance[0]).all())
        same = linear_gaussian(weight, offset, variance[0] if shared else variance)
        return same if _agree(model, same, middle, factor, u[: 2 * POINTS]) else None


def affine_of(prior: Distribution) -> tuple[Tensor, Tensor] | None:
    """A Gaussian law of a vector as an affine map of standard noise: m and L of N(m, L L^T).

    None for a law that is no Gaussian, that has a batch, or that is not of a vector.
    Shapes: m (D,), L (D, D), lower triangular.
    Example:
        >>> m, factor = affine_of(td.MultivariateNormal(torch.ones(2), 4 * torch.eye(2)))
        >>> factor.tolist()
        [[2.0, 0.0], [0.0, 2.0]]
    """
    base = base_of(prior)
    if prior.batch_shape or len(prior.event_shape) != 1:
        return None
    if isinstance(base, td.MultivariateNormal | td.LowRankMultivariateNormal):
        return base.loc, base.scale_tril
    if isinstance(base, td.Normal):
        return base.loc, torch.diag_embed(base.scale)
    return None


def _is_diagonal(likelihood: Distribution) -> bool:
    return (
        isinstance(likelihood, td.Independent)
        and isinstance(likelihood.base_dist, td.Normal)
        and len(likelihood.event_shape) == 1
    )


def _agree(model: Model, same: LinearGaussian, middle: Tensor, factor: Tensor, u: Tensor) -> bool:
    """Whether both give one density at random points: a subclass may compute its own."""
    x = same.offset + 2 * same.variance.sqrt() * torch.sin(torch.arange(same.width).to(u) + 1)
    x = x + u @ same.weight.mT
    theirs = model.log_joint(x, (middle + u @ factor.mT).unsqueeze(0))
    ours = same.log_joint(x, u.unsqueeze(0)) - factor.diagonal().log().sum()
    return bool(((theirs - ours).abs() <= 1e-8 * (1 + ours.abs())).all())
