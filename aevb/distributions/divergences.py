"""Closed-form Kullback-Leibler divergences, KL(q || p) in that order, in nats."""

from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal
from torch.distributions.kl import kl_divergence


def kl_by_dimension(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q || p) of each latent dimension where both factorize over dimensions, else None.

        -1/2 (1 + log s^2 - m^2 - s^2) for q = N(m, s^2), p = N(0, 1)

    Shapes: q with batch (N,) and event (D,); the result (N, D) sums over D to the whole KL.
    Units: nats. Source: Kingma & Welling (2013), equation 10 and appendix B.
    Example:
        >>> import torch
        >>> one = Independent(Normal(torch.zeros(1, 2), 1.0), 1)
        >>> kl_by_dimension(one, one)
        tensor([[0., 0.]])
    """
    if not (isinstance(q, Independent) and isinstance(p, Independent)):
        return None
    if not len(q.event_shape) == len(p.event_shape) == 1:
        return None
    return _closed_form(q.base_dist, p.base_dist)


def kl(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q || p) in closed form, (N,) nats, or None where there is none.

    Example:
        >>> import torch
        >>> kl(Normal(torch.tensor(1.0), 1.0), Normal(torch.tensor(0.0), 1.0))
        tensor(0.5000)
    """
    by_dimension = kl_by_dimension(q, p)
    if by_dimension is not None:
        return by_dimension.sum(-1)
    base = p.base_dist if isinstance(p, Independent) else p
    if isinstance(q, MultivariateNormal) and isinstance(base, Normal):
        return _full_against_diagonal(q, base)
    return _closed_form(q, p)


def _full_against_diagonal(q: MultivariateNormal, p: Normal) -> Tensor:
    """1/2 (tr(P^-1 L L^T) + (m - n)^T P^-1 (m - n) - D + log det P - log det L L^T).

    Torch's own formula wants both sides full, and cannot be traced into a compiled step.
    """
    log_determinants = 2 * (
        p.scale.log().expand(q.loc.shape) - q.scale_tril.diagonal(dim1=-2, dim2=-1).log()
    )
    squares = q.scale_tril.square().sum(-1) + (q.loc - p.loc).square()
    return 0.5 * (squares / p.variance - 1 + log_determinants).sum(-1)


def _closed_form(q: Distribution, p: Distribution) -> Tensor | None:
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None
