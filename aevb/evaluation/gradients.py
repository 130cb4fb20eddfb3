"""What an estimator of the gradient is worth on a model and its data: bias, variance, cost.

    g_r     the gradient of the mean objective over N rows, by the noise of replicate r
    bias    |mean_r g_r - g*|,  g* exact or the mean of a longer run of an unbiased estimator
    variance  N tr Cov(g_r), that of one datum: the noise of its rows is independent
    cost    seconds for one gradient, beside those of the first estimator

for theta and phi apart. Averaging is by chunks of replicates: no more than a few gradients and the
means of `BLOCKS` blocks are kept.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from aevb.data import Rows, require_rows
from aevb.devices import Stopwatch, tensor_of
from aevb.distributions import kl
from aevb.distributions.reparameterization import Noise
from aevb.errors import UsageError, at_least
from aevb.evaluation.batches import batch_for, in_evaluation_mode
from aevb.evaluation.certificate import finite
from aevb.evaluation.chunks import Progress
from aevb.evaluation.gradient_draws import PREFIXES, GradientDraws, Moments, distance, moments_of
from aevb.model import Model
from aevb.objectives import (
    LeaveOneOut,
    Objective,
    RunningMean,
    doubly_reparameterized,
    elbo_a,
    elbo_b,
    enumeration,
    gumbel_softmax,
    iwae,
    learned_baseline,
    path_derivative,
    score_function,
    straight_through,
    vimco,
)
from aevb.posterior import Batch, Posterior
from aevb.randomness import Stream, generator, seed_torch, torch_kept

BLOCKS = 10
"""Of replicates, whose spread says how far a bias is known."""
LONGER = 10
"""Times the replicates that the reference has, where no sum over codes is one."""
STEPS_BEFORE = 300
"""That a baseline with a memory is given before it is judged."""
ROUNDS = 30
"""In turns, of which the quickest is the cost: what delays one is no part of it."""
PARTS = tuple(PREFIXES)
_DRAWS, _LONG, _BASELINE, _CLOCK = range(4)
Draws = Callable[[int], Tensor]


class Worth(NamedTuple):
    """What was measured of an estimator, for one set of parameters.

        bias = |mean_r g_r - g*|,   variance = N tr Cov(g_r),   of N rows

    A bias below twice its error is no evidence of any. `ratio` is the variance beside that of the
    first estimator of the table: NaN where that has none.
    Units: `bias` and its error nats to the unit of the parameters; `variance` the square of it.
    Example:
        >>> worth = Worth(bias=0.01, bias_error=0.02, variance=3.0, ratio=1.0)
        >>> worth.bias < 2 * worth.bias_error
        True
    """

    bias: float
    bias_error: float
    variance: float
    ratio: float


@dataclass(frozen=True)
class Estimator:
    """What was measured of one estimator; `unbiased` is by its construction.

        price = (variance in theta + variance in phi) cost

    Units: `cost` the seconds of one gradient over those of the first estimator of the table; the
    rest as `Worth`.
    Example:
        >>> worth = Worth(bias=0.0, bias_error=0.1, variance=2.0, ratio=1.0)
        >>> Estimator("reparameterized B", True, worth, worth, cost=1.5).price
        6.0
    """

    name: str
    unbiased: bool
    theta: Worth
    phi: Worth
    cost: float

    def of(self, part: str) -> Worth:
        """What was measured for "theta" or for "phi"."""
        return self.theta if part == "theta" else self.phi

    @property
    def price(self) -> float:
        """Variance in both, times cost: what a given precision takes."""
        return (self.theta.variance + self.phi.variance) * self.cost

    def as_dict(self) -> dict[str, Any]:
        """The numbers, ready for JSON."""
        parts = {part: self.of(part)._asdict() for part in PARTS}
        about = {"name": self.name, "unbiased": self.unbiased, "cost": self.cost}
        return dict(finite(about | parts))


@dataclass(frozen=True)
class Comparison:
    """Estimators of one gradient side by side, those that do not apply with their reason.

    `norms` are those of the gradient itself, for theta and phi.
    Units: `norms` nats to the unit of the parameters. Source: as `compare_gradients`.
    Example:
        >>> low, high = Worth(0.0, 0.1, 1.0, 1.0), Worth(0.0, 0.1, 9.0, 9.0)
        >>> both = [Estimator("B", True, low, low, 1.0), Estimator("A", True, high, high, 1.0)]
        >>> norms = {"theta": 1.0, "phi": 1.0}
        >>> found = Comparison("elbo", 1, 2, 20, "the sum over all codes", norms, both, {})
        >>> found.recommendation.partition(",")[0], found.best.name
        ('Take B: of the unbiased ones its variance times its cost is the least', 'B')
    """

    objective: str
    samples: int
    rows: int
    replicates: int
    reference: str
    norms: Mapping[str, float]
    estimators: list[Estimator]
    left_out: Mapping[str, str]

    @property
    def best(self) -> Estimator:
        """Of the unbiased ones that of the least variance times cost."""
        return min((e for e in self.estimators if e.unbiased), key=lambda e: e.price)

    @property
    def recommendation(self) -> str:
        """What to take, in one sentence."""
        best = self.best
        others = [e for e in self.estimators if e.unbiased and e is not best]
        if not others:
            return f"Take {best.name}: it is the only unbiased one that applies."
        if best.price == 0:
            first = self.estimators[0].name
            return (
                f"Take {best.name}: it has no variance, and costs {best.cost:.2g} times as much as "
                f"{first}."
            )
        second = min(others, key=lambda e: e.price)
        return (
            f"Take {best.name}: of the unbiased ones its variance times its cost is the least, "
            f"{second.price / best.price:.2g} times below that of {second.name}."
        )

    def as_dict(self) -> dict[str, Any]:
        """The whole table, ready for JSON."""
        return {
            "unit": "nats",
            "objective": self.objective,
            "samples": self.samples,
            "rows": self.rows,
            "replicates": self.replicates,
            "reference": self.reference,
            "gradient_norm": dict(self.norms),
            "estimators": [estimator.as_dict() for estimator in self.estimators],
            "left_out": dict(self.left_out),
            "recommended": self.best.name,
            "recommendation": self.recommendation,
        }

    def __str__(self) -> str:
        wide = max(len(e.name) for e in self.estimators) + 2
        lines = [
            f"gradient of {self.objective}, {self.samples} samples, {self.rows} rows, "
            f"{self.replicates} replicates; norm {self.norms['theta']:.3g} in theta, "
            f"{self.norms['phi']:.3g} in phi",
            " " * wide + "".join(f"{part:>40}" for part in PARTS),
            " " * wide + f"{'bias':>18}{'variance':>12}{'ratio':>10}" * 2 + f"{'cost':>8}",
        ]
        for e in self.estimators:
            cells = [_cells(e.of(part)) for part in PARTS]
            mark = "" if e.unbiased else " *"
            lines.append(f"{e.name:<{wide}}" + "".join(cells) + f"{e.cost:>8.2f}{mark}")
        lines += [
            f"Bias against {self.reference}, ± how far it is known; variance of one datum's "
            "gradient, nats squared; * biased by construction.",
            *(f"left out: {name}: {reason}" for name, reason in self.left_out.items()),
            self.recommendation,
        ]
        return "\n".join(lines)


def _cells(worth: Worth) -> str:
    bias = f"{worth.bias:.2g} ± {worth.bias_error:.2g}"
    return f"{bias:>18}{worth.variance:>12.3g}{worth.ratio:>10.3g}"


def compare_gradients(
    model: Model,
    posterior: Posterior,
    rows: Rows,
    *,
    bound: str = "elbo",
    samples: int = 1,
    replicates: int = 1000,
    temperature: float = 0.5,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Measure every estimator that applies to a model on rows of data, and recommend one.

    Layers such as dropout are in evaluation mode, and a baseline with a memory is shown these rows
    before it is judged. All but the cost is a function of the seed.
    Shapes: `samples` draws for each of N rows. Units: nats to the unit of the parameters.
    Errors: UsageError for a bound other than elbo and iwae, fewer than 20 replicates, no sample or
    no row, a temperature that is not positive, or a seed outside [0, 2^64).
    Source: the comparison is that of Tucker et al. (2018), section 6, and of Mohamed et al. (2020),
    "Monte Carlo gradient estimation in machine learning".
    Example:
        >>> import aevb
        >>> model = aevb.Model(aevb.standard_normal(1), aevb.bernoulli(torch.nn.Linear(1, 3)))
        >>> encoder = aevb.mean_field(torch.nn.Linear(3, 2))
        >>> rows = Rows(np.eye(3, dtype=np.uint8), np.arange(3), (3,))
        >>> found = compare_gradients(model, encoder, rows, replicates=20)
        >>> found.best.unbiased
        True
    """
    if bound not in ("elbo", "iwae"):
        raise UsageError(f"gradients are compared of elbo or iwae, found {bound!r}")
    if replicates < 2 * BLOCKS:
        raise UsageError(f"a comparison needs at least {2 * BLOCKS} replicates, found {replicates}")
    at_least(1, samples, "the number of samples")
    require_rows(rows)
    generator(seed, Stream.GRADIENTS)  # refused here, not as a reason to leave estimators out
    with in_evaluation_mode(model, posterior):
        measure = _Measure(model, posterior, rows, samples, seed, progress)
        named = _of_elbo(model, posterior, measure.batch, temperature)
        named = named if bound == "elbo" else _of_iwae(measure.batch)
        found, left_out = measure.apart(named)
        return measure.compared(bound, found, left_out, replicates)


def _of_elbo(
    model: Model, posterior: Posterior, batch: Batch, temperature: float
) -> dict[str, Objective]:
    """Estimators of the gradient of the evidence lower bound, by the names of the table."""
    with torch.no_grad():
        closed = kl(posterior(batch), model.prior()) is not None
    bound = elbo_b if closed else elbo_a
    return {
        **({"reparameterized B": elbo_b} if closed else {}),
        "reparameterized A": elbo_a,
        "path derivative": path_derivative(elbo_a),
        **_score_functions(bound, batch),
        "score function, leave-one-out": score_function(bound, LeaveOneOut()),
        "gumbel-softmax": gumbel_softmax(temperature),
        "straight-through": straight_through,
        "enumeration": enumeration,
    }


def _of_iwae(batch: Batch) -> dict[str, Objective]:
    return {
        "reparameterized": iwae,
        "path derivative": path_derivative(iwae),
        "doubly reparameterized": doubly_reparameterized,
        **_score_functions(iwae, batch),
        "vimco": vimco,
    }


def _score_functions(bound: Objective, batch: Batch) -> dict[str, Objective]:
    with torch_kept(batch.x.device):
        seed_torch(0, batch.x.device)
        learned = learned_baseline(batch.x[0].numel())
    return {
        "score function": score_function(bound),
        "score function, running mean": score_function(bound, RunningMean().to(batch.x)),
        "score function, learned": score_function(bound, learned.to(batch.x)),
    }


def _worth(own: Moments, first: Moments, truth: Moments, rows: int) -> Worth:
    bias, error = distance(own.blocks, truth.blocks)
    ratio = own.variance / first.variance if first.variance > 0 else math.nan
    return Worth(bias, error, rows * own.variance, ratio)


class _Measure:
    """Everything that is measured of estimators on one batch."""

    def __init__(
        self,
        model: Model,
        posterior: Posterior,
        rows: Rows,
        samples: int,
        seed: int,
        progress: Progress | None,
    ) -> None:
        self.model, self.posterior, self.samples, self.seed = model, posterior, samples, seed
        positions = np.arange(len(rows))
        self.batch = batch_for(model, rows.take(positions), positions)
        self.draws = GradientDraws(model, posterior, self.batch)
        self.told, self.done, self.all = progress, 0, 1

    def apart(self, named: Mapping[str, Objective]) -> tuple[dict[str, Objective], dict[str, str]]:
        """Those that apply, and why the others do not: each says so itself."""
        found, left_out = {}, {}
        for name, objective in named.items():
            try:
                self.draws.one(objective, self._noise(objective, _CLOCK, 0)(1)[0])
                found[name] = objective
            except UsageError as error:
                left_out[name] = str(error)
        return found, left_out

    def compared(
        self,
        bound: str,
        named: Mapping[str, Objective],
        left_out: Mapping[str, str],
        replicates: int,
    ) -> Comparison:
        exact = named.get("enumeration")
        self.all = replicates * (len(named) + (0 if exact else LONGER))
        for objective in named.values():
            self._prepare(objective)
        found = {n: self._moments(o, replicates, _DRAWS) for n, o in named.items()}
        if exact is not None:
            truth, reference = found["enumeration"], "the sum over all codes"
        else:
            unbiased = [name for name, objective in named.items() if objective.unbiased]
            name = min(unbiased, key=lambda n: sum(found[n][p].variance for p in PARTS))
            many = LONGER * replicates
            truth, reference = self._moments(named[name], many, _LONG), f"{many} of {name}"
        seconds = self._seconds(named)
        first, rows = next(iter(named)), len(self.batch.x)
        estimators = []
        for name, objective in named.items():
            own, other = found[name], found[first]
            theta, phi = (_worth(own[p], other[p], truth[p], rows) for p in PARTS)
            cost = seconds[name] / seconds[first]
            estimators.append(Estimator(name, objective.unbiased, theta, phi, cost))
        norms = {part: float(truth[part].mean.norm()) for part in PARTS}
        about = (bound, self.samples, rows, replicates, reference)
        return Comparison(*about, norms, estimators, left_out)

    def _prepare(self, objective: Objective) -> None:
        """Show these rows to what the objective learns for itself, and hold it there."""
        noise = self._noise(objective, _BASELINE, 0)
        for module in objective.modules().values():
            own = list(module.parameters())
            optimizer = torch.optim.Adam(own, lr=1e-2) if own else None
            for one in noise(STEPS_BEFORE):
                value = -self.draws.pair(objective, self.batch, one)
                if optimizer is not None:
                    found = torch.autograd.grad(value, own, allow_unused=True)
                    for p, g in zip(own, found, strict=True):
                        p.grad = g
                    optimizer.step()
            module.eval()

    def _moments(self, objective: Objective, replicates: int, use: int) -> dict[str, Moments]:
        """Of so many replicates; of one where nothing is drawn."""
        if objective.noise(self.model, self.posterior, self.batch).shape.numel() == 0:
            one = self.draws(objective, self._noise(objective, use, 0)(1))
            self._tell(replicates)
            return {p: Moments(g.double(), g[0].double(), 0.0) for p, g in one.items()}
        sums: dict[str, list[Tensor]] = {part: [] for part in PARTS}
        squares = dict.fromkeys(PARTS, 0.0)
        sizes = [len(block) for block in np.array_split(np.arange(replicates), BLOCKS)]
        for k, size in enumerate(sizes):
            noise = self._noise(objective, use, k)(size)
            total = {part: torch.zeros((), dtype=torch.float64) for part in PARTS}
            for some in noise.split(self.draws.at_once):
                for part, g in self.draws(objective, some).items():
                    g = g.double()
                    total[part] = total[part] + g.sum(0)
                    squares[part] += float(g.square().sum())
                self._tell(len(some))
            for part in PARTS:
                sums[part].append(total[part])
        return {part: moments_of(sums[part], sizes, squares[part]) for part in PARTS}

    def _noise(self, objective: Objective, use: int, block: int) -> Draws:
        """So many draws of the noise, (R, S, N, *shape), by (seed, use, block)."""
        with torch.no_grad():
            law: Noise = objective.noise(self.model, self.posterior, self.batch)
        source = generator(self.seed, Stream.GRADIENTS, use, block)
        like = tensor_of(self.model)
        lead = (self.samples, len(self.batch.x))
        return lambda n: law.draw(source, (n, *lead), like.dtype).to(like.device)

    def _seconds(self, named: Mapping[str, Objective]) -> dict[str, float]:
        """Of one gradient each, taken in turns: what else the machine does troubles all alike."""
        noise = {name: self._noise(o, _CLOCK, 1)(1)[0] for name, o in named.items()}
        taken: dict[str, list[float]] = {name: [] for name in named}
        for _ in range(ROUNDS):
            for name, objective in named.items():
                watch = Stopwatch(self.batch.x.device)
                with watch.running():
                    self.draws.one(objective, noise[name])
                taken[name].append(watch.total())
        return {name: min(times) for name, times in taken.items()}

    def _tell(self, done: int) -> None:
        self.done += done
        if self.told is not None:
            self.told(min(self.done, self.all), self.all)
