"""Auto-Encoding Variational Bayes (Kingma & Welling 2013, algorithm 1).

    repeat   X^M: a random minibatch of M data;   noise: L draws of p(noise) for each datum
             g = gradient of mean_n objective(x_n) + log p(theta) / N,  in theta and phi at once
             theta, phi = one step of the optimizer along g

The whole step is one function of tensors: forward, backward, clipping and the optimizer's update.
`torch.compile` makes it one graph; the eager twin is the same function, called as it stands.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from aevb.compilation import Compiled, layouts
from aevb.errors import UsageError
from aevb.model import Model
from aevb.objectives import Objective, draw, elbo_b
from aevb.optimizers import Adam, Optimizer
from aevb.posterior import Batch, Posterior, as_batch
from aevb.products import PRECISIONS, products_in
from aevb.randomness import torch_kept

METRICS = ("objective", "reconstruction", "kl")
"""What a step adds up over its data, in nats; the elbo is reconstruction - kl."""


@dataclass
class State:
    """All that changes while learning; every tensor is changed in place.

    Shapes: `totals` holds, in float64, the sums over data of `METRICS`, the number of data and the
    first step whose objective was not finite (0 while there is none).
    """

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    memory: dict[str, tuple[Tensor, ...]]
    totals: Tensor
    t: int = field(default=0, compare=False)  # to a graph: it reads it among the scalars

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor under one flat name, as a checkpoint stores them."""
        flat = {f"parameters/{k}": v for k, v in self.parameters.items()}
        flat |= {f"buffers/{k}": v for k, v in self.buffers.items()}
        flat |= {f"memory{i}/{k}": v for k, m in self.memory.items() for i, v in enumerate(m)}
        return flat | {"totals": self.totals}

    def averages(self) -> dict[str, float]:
        """The metrics' means over the data seen since the totals were last zeroed."""
        *sums, count, _ = self.totals.tolist()
        means = {k: s / count for k, s in zip(METRICS, sums, strict=True)}
        return {"elbo": means["reconstruction"] - means["kl"], **means}


class _Pair(nn.Module):
    """Model and posterior as one module, so that one call runs both under given parameters."""

    def __init__(self, model: Model, posterior: Posterior) -> None:
        super().__init__()
        self.model = model
        self.posterior = posterior

    def forward(
        self, batch: Batch, noise: Tensor, objective: Objective, temper: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        d = draw(self.model, self.posterior, batch, noise)
        return objective.reduce(d, temper), d.reconstruction(), d.kl_estimate()


@dataclass
class AEVB:
    """The learner: stochastic gradient ascent on an objective, in model and posterior together.

    `weight_prior_rows` N gives maximum a posteriori: log N(theta; 0, I) / N joins the objective,
    which is per datum; None gives maximum likelihood. `clip` bounds the gradient's norm.
    The optimizer is one of `aevb.optimizers`, or any `torch.optim` object over the parameters,
    which then moves them outside the compiled gradient. With `precision` bfloat16 the networks'
    matrix products are in it; densities, parameters and the optimizer's memory stay float32.
    `treatment` is what is done to the rows of a batch inside the step, given its key.
    Shapes: a batch of M data, noise (L, M, D). Units: nats per datum.
    Errors: UsageError for clip or weight_prior_rows not positive, for a precision that is not
    float32 or bfloat16, or bfloat16 and parameters that are not float32; those of the objective.
    Source: Kingma & Welling (2013), algorithm 1 and section 5.
    Example:
        >>> from aevb import MLP, bernoulli, mean_field, standard_normal
        >>> model = Model(standard_normal(2), bernoulli(MLP(2, [8], 5)))
        >>> learner = AEVB(model, mean_field(MLP(5, [8], 4)))
        >>> state = learner.init()
        >>> learner.step(state, torch.ones(3, 5), torch.zeros(1, 3, 2))
        >>> state.t
        1
    """

    model: Model
    posterior: Posterior
    objective: Objective = elbo_b
    optimizer: Optimizer | torch.optim.Optimizer = field(default_factory=Adam)
    weight_prior_rows: int | None = None
    clip: float | None = None
    compiled: bool = False
    precision: str = "float32"
    treatment: Callable[[Tensor, Tensor | None], Tensor] | None = None

    def __post_init__(self) -> None:
        for name in ("clip", "weight_prior_rows"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"{name} must be positive, found {value}")
        if self.precision not in PRECISIONS:
            known = " or ".join(PRECISIONS)
            raise UsageError(f"precision must be {known}, found {self.precision!r}")
        self._pair = _Pair(self.model, self.posterior)
        device = next((p.device.type for p in self._pair.parameters()), "cpu")
        self._graph = Compiled(self._advance, device=device)
        self._began = False
        if isinstance(self.optimizer, torch.optim.Optimizer):
            self._rates = [group["lr"] for group in self.optimizer.param_groups]

    def init(self) -> State:
        """The state at the modules' present parameters, which it shares and moves in place."""
        for p in self._pair.parameters():
            if p.device.type == "cuda":
                # The compiler lays out convolutions, and fails on what suits a processor.
                p.data = p.data.contiguous()
        parameters = {
            name: p.detach() for name, p in self._pair.named_parameters() if p.requires_grad
        }
        if not parameters:
            raise UsageError("there is nothing to learn: every parameter is frozen")
        kinds = {p.dtype for p in parameters.values() if p.is_floating_point()}
        if self.precision == "bfloat16" and kinds != {torch.float32}:
            found = ", ".join(sorted(str(kind)[6:] for kind in kinds))
            raise UsageError(f"bfloat16 products need parameters in float32, found {found}")
        slots = self.optimizer.slots if isinstance(self.optimizer, Optimizer) else 0
        device = next(iter(parameters.values())).device
        return State(
            parameters=parameters,
            buffers=dict(self._pair.named_buffers()),
            memory={
                k: tuple(torch.zeros_like(p) for _ in range(slots)) for k, p in parameters.items()
            },
            totals=torch.zeros(len(METRICS) + 2, dtype=torch.float64, device=device),
        )

    def step(
        self,
        state: State,
        batch: Batch | Tensor,
        noise: Tensor,
        rate_factor: float = 1.0,
        temper: float = 1.0,
    ) -> None:
        """One step of algorithm 1, in place; what it measured is added to `state.totals`."""
        state.t += 1
        batch = as_batch(batch)
        numbers = [temper, state.t]
        if isinstance(self.optimizer, Optimizer):
            rate = self.optimizer.learning_rate * rate_factor
            numbers += self.optimizer.coefficients(rate, state.t)
        arguments = (state, batch, noise, torch.tensor(numbers, dtype=torch.float64))
        if not self._began:
            self._begin(*arguments)
        if self.compiled:
            key = (self._pair.training, *layouts((*batch, noise)))
            gradients = self._graph(key, *arguments)
            self.compiled = self._graph.note is None
        else:
            gradients = self._advance(*arguments)
        if isinstance(self.optimizer, torch.optim.Optimizer):
            self._outside(self.optimizer, gradients, rate_factor)

    @property
    def note(self) -> str | None:
        """Why the step runs uncompiled although a compiled one was asked for."""
        return self._graph.note

    def treated(self, batch: Batch | Tensor) -> Batch:
        """The batch as the model sees it: the loop hands rows in as they are stored."""
        batch = as_batch(batch)
        if self.treatment is None:
            return batch
        return batch._replace(x=self.treatment(batch.x, batch.key), key=None)

    def _begin(self, state: State, batch: Batch, noise: Tensor, scalars: Tensor) -> None:
        """Before the first step, check the batch eagerly: data of the wrong domain are refused.

        The pass also lets torch find its formula for the divergence, which cannot be traced
        at its first use. It leaves torch's generator as it was: a resumed run starts here too.
        """
        self._began = True
        with torch.no_grad(), torch_kept(noise.device):
            self._loss(state.parameters, state.buffers, batch, noise, scalars[0])

    def _advance(
        self, state: State, batch: Batch, noise: Tensor, scalars: Tensor
    ) -> dict[str, Tensor]:
        """Forward, backward, clipping and update: the function that is compiled.

        It gives the gradients to an optimizer outside of it, and keeps them where there is none.
        """
        temper, t, *coefficients = scalars.unbind()
        gradients, (loss, (terms, buffers)) = grad_and_value(self._loss, has_aux=True)(
            state.parameters, state.buffers, batch, noise, temper
        )
        if self.clip is not None:
            gradients = _clip(gradients, self.clip)
        with torch.no_grad():
            coefficients = [c.to(noise.dtype) for c in coefficients]
            if isinstance(self.optimizer, Optimizer):
                for name, p in state.parameters.items():
                    memory = state.memory[name]
                    self.optimizer.update(p, gradients[name], memory, coefficients)
            for name, buffer in state.buffers.items():
                buffer.copy_(buffers[name])
            first_bad = state.totals[-1]
            bad = torch.where((first_bad == 0) & ~torch.isfinite(loss), t, first_bad)
            state.totals[:-1].add_(terms)
            state.totals[-1].copy_(bad)
        outside: dict[str, Tensor] = {} if isinstance(self.optimizer, Optimizer) else gradients
        return outside

    def _loss(
        self,
        parameters: dict[str, Tensor],
        buffers: dict[str, Tensor],
        batch: Batch,
        noise: Tensor,
        temper: Tensor,
    ) -> tuple[Tensor, tuple[Tensor, dict[str, Tensor]]]:
        """Minus the objective per datum: the one minus sign of the library."""
        # Layers such as batch normalization write to their buffers: let them write to copies.
        buffers = {name: buffer.clone() for name, buffer in buffers.items()}
        dtype = noise.dtype
        x, rows, _ = self.treated(batch)
        with products_in(self.precision, noise.device.type):
            values = functional_call(
                self._pair,
                {**parameters, **buffers},
                (Batch(x.to(dtype), rows), noise, self.objective, temper.to(dtype)),
            )
        objective = values[0].mean()
        if self.weight_prior_rows is not None:
            objective = objective + _log_weight_prior(parameters) / self.weight_prior_rows
        sums = [v.detach().sum(dtype=torch.float64) for v in values]
        count = torch.full_like(sums[0], len(x))
        return -objective, (torch.stack([*sums, count]), buffers)

    def _outside(
        self, optimizer: torch.optim.Optimizer, gradients: dict[str, Tensor], rate_factor: float
    ) -> None:
        for name, p in self._pair.named_parameters():
            if name in gradients:
                p.grad = gradients[name]
        for group, rate in zip(optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * rate_factor
        optimizer.step()

    def outside_tensors(self) -> dict[str, Tensor]:
        """The memory of a `torch.optim` object under flat names, for checkpoints."""
        if isinstance(self.optimizer, Optimizer):
            return {}
        state = self.optimizer.state_dict()["state"]
        return {
            f"optimizer/{i}/{key}": torch.as_tensor(value)
            for i, slots in state.items()
            for key, value in slots.items()
        }

    def load_outside_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Give a `torch.optim` object its memory back."""
        if isinstance(self.optimizer, Optimizer):
            return
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer/"):
                _, i, key = name.split("/", 2)
                state.setdefault(int(i), {})[key] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})


def _log_weight_prior(parameters: dict[str, Tensor]) -> Tensor:
    """log N(theta; 0, I) over the generative parameters."""
    theta = [p for name, p in parameters.items() if name.startswith("model.")]
    size = sum(p.numel() for p in theta)
    return -0.5 * torch.stack([p.square().sum() for p in theta]).sum() - 0.5 * size * math.log(
        2 * math.pi
    )


def _clip(gradients: dict[str, Tensor], bound: float) -> dict[str, Tensor]:
    """Scale all gradients together so that their joint norm is at most `bound`."""
    norm = torch.sqrt(torch.stack([g.square().sum() for g in gradients.values()]).sum())
    factor = (bound / (norm + 1e-6)).clamp_max(1.0)
    return {name: g * factor for name, g in gradients.items()}
