"""What codes say of the data: mutual information, and the aggregate posterior beside the prior.

q(z) = (1/M) sum_m q(z given x_m)        the aggregate posterior, of M rows
I(x; z) = E log q(z given x) / q(z)      mean_n KL(q(z given x_n) || p) = I(x; z) + KL(q(z) || p)
"""

import math
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from aevb.data import Rows, require_rows
from aevb.devices import tensor_of
from aevb.distributions import on_reals
from aevb.distributions.reparameterization import drawn
from aevb.errors import at_least
from aevb.evaluation.batches import batch_for, evaluating
from aevb.evaluation.certificate import finite, standard_error
from aevb.model import Model
from aevb.posterior import Posterior
from aevb.randomness import Stream, generator

PAIRS_AT_ONCE = 2_000_000
"""Numbers of codes beside components, (codes x rows x D), that are looked at together."""
TAIL = 0.01


def codes_of(
    model: Model, posterior: Posterior, rows: Rows, *, seed: int = 0, block: int = 0
) -> tuple[Distribution, Tensor]:
    """The posterior of all rows at once, and a draw of it for each, (N, D).

    `block` names the draw: another one, other noise.
    Shapes: N rows to q with batch (N,) and event (D,), and codes (N, D).
    Example:
        >>> from aevb.linear_gaussian import linear_gaussian
        >>> model = linear_gaussian([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [0.0, 0.0, 0.0], 1.0)
        >>> rows = Rows(np.eye(3, dtype=np.float32), np.arange(3), (3,))
        >>> q, z = codes_of(model, model.exact_encoder(), rows)
        >>> q.batch_shape, z.shape
        (torch.Size([3]), torch.Size([3, 2]))
    """
    like = tensor_of(model)
    with evaluating(model, posterior):
        q = posterior(batch_for(model, require_rows(rows).all(), np.arange(len(rows))))
        return q, drawn(q, (1,), generator(seed, Stream.CHECK, block), like)[0]


def log_components(q: Distribution, z: Tensor) -> Tensor:
    """log q(z_m given x_n) for every code and every row.

    Shapes: q with batch (N,) and event (D,), z (M, D); the result (M, N) in float64. Units: nats.
    Example:
        >>> from torch.distributions import Independent, Normal
        >>> q = Independent(Normal(torch.tensor([[0.0], [2.0]]), 1.0), 1)
        >>> z = torch.tensor([[0.0], [1.0], [2.0]])
        >>> log_components(q, z).argmax(0)  # of each row, the code that it makes most probable
        tensor([0, 2])
    """
    rows = q.batch_shape[0]
    size = max(1, PAIRS_AT_ONCE // (rows * z.shape[-1]))
    with torch.no_grad():
        parts = [
            q.log_prob(part.unsqueeze(1).expand(-1, rows, -1).contiguous())
            for part in z.split(size)
        ]
    return torch.cat(parts).double()


def log_aggregate(q: Distribution, z: Tensor) -> Tensor:
    """log q(z) of the aggregate posterior, the equal mixture of all rows' posteriors.

        log q(z_m) = log (1/N) sum_n q(z_m given x_n)

    Shapes: q with batch (N,) and event (D,), z (M, D); the result (M,) in float64. Units: nats.
    Source: Hoffman & Johnson (2016), "ELBO surgery", equation 2.
    Example:
        >>> from torch.distributions import Independent, Normal
        >>> q = Independent(Normal(torch.zeros(3, 2), torch.ones(3, 2)), 1)
        >>> log_aggregate(q, torch.zeros(1, 2)).exp()
        tensor([0.1592], dtype=torch.float64)
    """
    return log_components(q, z).logsumexp(1) - math.log(q.batch_shape[0])


@dataclass(frozen=True)
class Information:
    """Bounds on I(x; z), with their standard errors over data.

    `lower` counts a datum's own posterior among the N of the mixture and so can never exceed
    `cap` = log N, whatever the truth is; `upper` leaves it out. `kl` is mean KL(q || p), which is
    an upper bound too.
    Units: nats. Source: as `information`.
    Example:
        >>> print(Information(1.0, 0.1, 1.4, 0.1, kl=1.2, cap=math.log(500)))
        between 1.00 and 1.20 nats
        >>> print(Information(6.0, 0.1, 40.0, 0.5, kl=30.0, cap=math.log(500)))
        at least 6.00 nats (no more than 6.21 can be seen)
    """

    lower: float
    lower_error: float
    upper: float
    upper_error: float
    kl: float
    cap: float

    @property
    def capped(self) -> bool:
        """Whether the lower bound is so near to its cap that the truth may lie far above."""
        return self.lower > self.cap - 0.5

    def __str__(self) -> str:
        if self.capped:
            return f"at least {self.lower:.2f} nats (no more than {self.cap:.2f} can be seen)"
        return f"between {max(self.lower, 0):.2f} and {max(min(self.upper, self.kl), 0):.2f} nats"

    def as_dict(self) -> dict[str, float | None]:
        """The bounds, ready for JSON."""
        return dict(finite(asdict(self)))


def information(model: Model, posterior: Posterior, rows: Rows, *, seed: int = 0) -> Information:
    """Bound the mutual information of data and codes, by the aggregate posterior of the rows.

        lower = mean_n log q(z_n given x_n) / ((1/N) sum_m q(z_n given x_m))          <= log N
        upper = mean_n log q(z_n given x_n) / ((1/(N-1)) sum_{m != n} q(z_n given x_m))

    Shapes: N rows, a code z_n of each. Units: nats.
    Errors: UsageError for fewer than 2 rows.
    Source: Poole et al. (2019), "On variational bounds of mutual information", section 2, with
    q(z given x) known.
    Example:
        >>> import aevb
        >>> rows = aevb.data.load("digits").test
        >>> model = aevb.Model(aevb.standard_normal(2), aevb.gaussian(aevb.MLP(2, [8], 128)))
        >>> found = information(model, aevb.mean_field(aevb.MLP(64, [8], 4)), rows)
        >>> found.lower <= found.cap and found.lower <= found.upper
        True
    """
    n = len(rows)
    at_least(2, n, "the number of rows for mutual information")
    q, z = codes_of(model, posterior, rows, seed=seed)
    log_q = log_components(q, z)
    own = log_q.diagonal()
    others = log_q.masked_fill(torch.eye(n, dtype=torch.bool, device=own.device), -math.inf)
    with torch.no_grad():
        log_p = model.prior().log_prob(z).double()
    lower = own - (log_q.logsumexp(1) - math.log(n))
    upper = own - (others.logsumexp(1) - math.log(n - 1))
    by_row = torch.stack([lower, upper, own - log_p])
    mean, error = by_row.mean(1).tolist(), (by_row.std(1) / math.sqrt(n)).tolist()
    return Information(mean[0], error[0], mean[1], error[1], mean[2], math.log(n))


def log_widened(centers: Tensor, z: Tensor) -> Tensor:
    """The log-density of codes, each widened to a Gaussian of one width.

        log q^(z) = log (1/N) sum_n N(z; c_n, h^2 I)

    The width h is the one under which each code is most probable by all others. Under a posterior
    much narrower than the room between rows the mixture of the posteriors is of little use.
    Shapes: centers (N, D), z (M, D); the result (M,) in float64. Units: nats.
    Source: Parzen (1962); the width by leaving one out, Habbema et al. (1974).
    Example:
        >>> log_widened(torch.zeros(2, 1) + torch.tensor([[0.0], [1.0]]), torch.zeros(1, 1)) > -2
        tensor([True])
    """
    n, d = centers.shape
    within, across = (torch.cdist(a.double(), centers.double()) ** 2 for a in (centers, z))
    within.fill_diagonal_(math.inf)
    # As wide as the codes lie apart in the mean, down to a hundredth of it.
    reach = float(within[within.isfinite()].mean()) ** 0.5 if n > 1 else 1.0
    widths = max(reach, 1e-6) * torch.logspace(-2, 0, 21, dtype=torch.float64)
    constant = torch.log(widths) * d + 0.5 * d * math.log(2 * math.pi)

    def density(squares: Tensor, k: int, count: int) -> Tensor:
        inner = torch.logsumexp(-0.5 * squares / widths[k] ** 2, 1)
        return inner - math.log(count) - constant[k]

    best = max(range(len(widths)), key=lambda k: float(density(within, k, max(n - 1, 1)).mean()))
    return density(across, best, n)


@dataclass(frozen=True)
class Holes:
    """How codes drawn from the prior lie beside those of rows.

    `share` of the prior's draws has an r(z) = log q(z) - log p(z) below the 1 % quantile of the
    rows' codes: 1 % where the aggregate posterior is the prior, 100 % where every draw of the prior
    falls into a hole. `distance` is at most KL(q(z) || p), in expectation, and negative where few
    rows in many dimensions show nothing.
    Units: a share for `share` and its error, nats for `distance` and its error. Source: as `holes`.
    Example:
        >>> found = Holes(share=0.3, share_error=0.02, distance=0.5, distance_error=0.1)
        >>> found.share - 0.01 > 3 * found.share_error  # beyond what chance leaves there
        True
    """

    share: float
    share_error: float
    distance: float
    distance_error: float


def holes(
    model: Model,
    train: tuple[Posterior, Rows],
    held_out: tuple[Posterior, Rows],
    *,
    seed: int = 0,
) -> Holes:
    """Compare the prior with the aggregate posterior: where do samples of the prior fall?

        share    = P_p( r(z) < the 1 % quantile of r under q(z) ),   r(z) = log q(z) - log p(z)
        distance = E_q(z) [log q^(z) - log p(z)] = KL(q(z) || p) - KL(q(z) || q^)

    q(z) is the mixture over the training rows, and q^ their codes, widened; the codes z are those
    of held-out rows, so that few rows in many dimensions make both sides low alike, and not one.
    Shapes: as many draws of the prior as there are held-out rows. Units: nats. On a simplex or a
    sphere the mixture stands in for q^.
    Source: Rosca et al. (2018), "Distribution matching in variational inference", section 5.
    Example:
        >>> import aevb
        >>> model = aevb.Model(aevb.standard_normal(1), aevb.bernoulli(aevb.MLP(1, [], 2)))
        >>> far = aevb.mean_field(aevb.MLP(2, [], 2))
        >>> with torch.no_grad():  # every code lies near 9, where the prior never is
        ...     _ = far.conditional.network.head.bias.copy_(torch.tensor([9.0, 0.0]))
        >>> rows = Rows(np.eye(2, dtype=np.uint8), np.arange(2), (2,))
        >>> holes(model, (far, rows), (far, rows)).share
        1.0
    """
    mixture, seen = codes_of(model, *train, seed=seed)
    _, z = codes_of(model, *held_out, seed=seed, block=1)
    anywhere = model.sample_prior(len(z), generator(seed, Stream.CHECK, 2))
    n = len(z)
    with torch.no_grad():
        prior = model.prior()
        of_rows = (log_aggregate(mixture, z) - prior.log_prob(z)).cpu().numpy()
        of_prior = (log_aggregate(mixture, anywhere) - prior.log_prob(anywhere)).cpu().numpy()
        apart = of_rows
        if on_reals(prior):
            apart = (log_widened(seen, z) - prior.log_prob(z).double()).cpu().numpy()
    share = float((of_prior < np.quantile(of_rows, TAIL)).mean())
    return Holes(
        share,
        math.sqrt(share * (1 - share) / n),
        float(apart.mean()),
        standard_error(apart),
    )
