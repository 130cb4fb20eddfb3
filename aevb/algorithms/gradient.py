"""Learning by gradients: one step of an optimizer along that of the mean objective of a batch.

    g = gradient of mean_n objective(x_n) + log p(theta) / N,  in theta and phi at once
    theta, phi = one step of the optimizer along g

What the objective is, `terms`, makes the algorithm: its value is reported, its gradient followed.
The whole step is one function of tensors: forward, backward, clipping and the optimizer's update.
`torch.compile` makes it one graph; the eager twin is the same function, called as it stands.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from aevb.algorithms.learner import Learner, State, empty_totals
from aevb.compilation import Compiled, layouts
from aevb.errors import UsageError, shortly
from aevb.model import Model
from aevb.objectives import Terms
from aevb.optimizers import Adam, Optimizer
from aevb.posterior import Batch, Posterior
from aevb.products import PRECISIONS, products_in
from aevb.randomness import torch_kept


class Whole(nn.Module):
    """All modules of a learner as one, so that one call runs them under given parameters."""

    def __init__(self, learner: "GradientLearner", modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self._learner = (learner,)  # no module: it is not described, and holds this one
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, batch: Batch, noise: Tensor, temper: Tensor) -> Terms:
        return self._learner[0].terms(batch, noise, temper)


@dataclass
class GradientLearner(Learner):
    """Stochastic gradient ascent, in model and posterior together, on what `terms` gives.

    `weight_prior_rows` N gives maximum a posteriori: log N(theta; 0, I) / N joins the objective,
    which is per datum; None gives maximum likelihood.
    The optimizer is one of `aevb.optimizers`, or any `torch.optim` object over the parameters,
    which then moves them outside the compiled gradient, and may clip it by a hook of its own. With
    `precision` bfloat16 the networks' matrix products are in it; densities, parameters and the
    optimizer's memory stay float32.
    `treatment` is a field because a kept compiled step is known by its learner's fields.
    Shapes: a batch of M data, noise (L, M, *shape) as `noise` says. Units: nats per datum.
    Errors: UsageError for weight_prior_rows not positive, for a precision that is not float32 or
    bfloat16, or bfloat16 and parameters that are not float32.
    Source: Kingma & Welling (2013), algorithm 1 and section 5; Robbins & Monro (1951).
    Example:
        >>> import aevb
        >>> class Fit(GradientLearner):
        ...     def terms(self, batch, noise, temper):
        ...         return aevb.elbo_a.terms(self.model, self.posterior, batch, noise, temper)
        ...     def noise(self, batch):
        ...         return aevb.elbo_a.noise(self.model, self.posterior, batch)
        >>> model = aevb.Model(aevb.standard_normal(2), aevb.bernoulli(aevb.MLP(2, [8], 5)))
        >>> Fit(model, aevb.mean_field(aevb.MLP(5, [8], 4))).noise(Batch(torch.ones(3, 5))).shape
        torch.Size([2])
    """

    model: Model
    posterior: Posterior
    optimizer: Optimizer | torch.optim.Optimizer = field(default_factory=Adam, kw_only=True)
    weight_prior_rows: int | None = field(default=None, kw_only=True)
    compiled: bool = field(default=False, kw_only=True)
    precision: str = field(default="float32", kw_only=True)
    treatment: Callable[[Tensor, Tensor | None], Tensor] | None = field(default=None, init=False)

    @abstractmethod
    def terms(self, batch: Batch, noise: Tensor, temper: Tensor) -> Terms:
        """What a step climbs and what it reports, (M,) each, at the modules' present parameters.

        It is traced: it must decide nothing by what is in a tensor.
        """

    def modules(self) -> dict[str, nn.Module]:
        """All that is learned, by name; generative parameters are those of `model`."""
        return {"model": self.model, "posterior": self.posterior}

    def __post_init__(self) -> None:
        if self.weight_prior_rows is not None and not self.weight_prior_rows > 0:
            raise UsageError(f"weight_prior_rows must be positive, found {self.weight_prior_rows}")
        if self.precision not in PRECISIONS:
            known = " or ".join(PRECISIONS)
            raise UsageError(f"precision must be {known}, found {self.precision!r}")
        if not isinstance(self.optimizer, Optimizer | torch.optim.Optimizer):
            raise UsageError(
                "the optimizer is one of aevb.optimizers, such as aevb.Adam(), or one of "
                f"torch.optim over the parameters, found {shortly(self.optimizer)}"
            )
        self._whole = Whole(self, self.modules())
        self._parts = list(self._whole.modules())  # to find it again takes ten times as long
        device = next((p.device.type for p in self._whole.parameters()), "cpu")
        self._graph = Compiled(self._advance, device=device)
        self._began = False

    def init(self) -> State:
        """The state at the modules' present parameters, which it shares and moves in place."""
        for p in self._whole.parameters():
            if p.device.type == "cuda":
                # The compiler lays out convolutions, and fails on what suits a processor.
                p.data = p.data.contiguous()
        parameters = {
            name: p.detach() for name, p in self._whole.named_parameters() if p.requires_grad
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
            buffers=dict(self._whole.named_buffers()),
            memory={
                k: tuple(torch.zeros_like(p) for _ in range(slots)) for k, p in parameters.items()
            },
            totals=empty_totals(device),
        )

    def _step(
        self, state: State, batch: Batch, noise: Tensor, rate_factor: float, temper: float
    ) -> None:
        numbers = [temper, state.t, *self._coefficients(rate_factor, state.t)]
        arguments = (state, batch, noise, torch.tensor(numbers, dtype=torch.float64))
        if not self._began:
            self._begin(*arguments)
        if self.compiled:
            key = (*[part.training for part in self._parts], *layouts((*batch, noise)))
            gradients = self._graph(key, *arguments)
            self.compiled = self._graph.note is None
        else:
            gradients = self._advance(*arguments)
        if isinstance(self.optimizer, torch.optim.Optimizer):
            self._outside(self.optimizer, gradients, rate_factor)

    @property
    def lr(self) -> float:
        """That of the optimizer; 1 where each of its groups has its own."""
        return getattr(self.optimizer, "lr", 1.0)

    @property
    def note(self) -> str | None:
        """Why the step runs uncompiled although a compiled one was asked for."""
        return self._graph.note

    def _coefficients(self, rate_factor: float, t: int) -> Sequence[float]:
        """The numbers of the optimizer in step t; none where it is outside of the step."""
        if not isinstance(self.optimizer, Optimizer):
            return ()
        return self.optimizer.coefficients(self.optimizer.lr * rate_factor, t)

    def _begin(self, state: State, batch: Batch, noise: Tensor, scalars: Tensor) -> None:
        """Before the first step, check the batch eagerly: data of the wrong domain are refused.

        The pass also lets torch find its formula for the divergence, which cannot be traced
        at its first use. It leaves torch's generator as it was: a resumed run starts here too.
        """
        self._began = True
        batch = self._prepared(batch, noise.dtype)
        with torch.no_grad(), torch_kept(noise.device):
            self._loss(state.parameters, state.buffers, batch, noise, scalars[0])

    def _advance(
        self, state: State, batch: Batch, noise: Tensor, scalars: Tensor
    ) -> dict[str, Tensor]:
        """Forward, backward, clipping and update: the function that is compiled.

        It gives the gradients to an optimizer outside of it, and keeps them where there is none.
        """
        temper, t, *coefficients = scalars.unbind()
        batch = self._prepared(batch, noise.dtype)
        gradients, terms = self._ascend(state, batch, noise, temper, coefficients)
        with torch.no_grad():
            state.add(terms, t)
        outside: dict[str, Tensor] = {} if isinstance(self.optimizer, Optimizer) else gradients
        return outside

    def _prepared(self, batch: Batch, dtype: torch.dtype) -> Batch:
        """The batch as the model sees it, in the numbers that it computes with."""
        x, rows, _ = self.treated(batch)
        return Batch(x.to(dtype), rows)

    def _ascend(
        self,
        state: State,
        batch: Batch,
        noise: Tensor,
        temper: Tensor,
        coefficients: Sequence[Tensor],
    ) -> tuple[dict[str, Tensor], Terms]:
        """One update along the gradient, in place; the gradients, and the terms before it."""
        gradients, (_, (terms, buffers)) = grad_and_value(self._loss, has_aux=True)(
            state.parameters, state.buffers, batch, noise, temper
        )
        with torch.no_grad():
            coefficients = [c.to(noise.dtype) for c in coefficients]
            if isinstance(self.optimizer, Optimizer):
                gradients = self.optimizer.clipped(gradients)
                for name, p in state.parameters.items():
                    memory = state.memory[name]
                    self.optimizer.update(p, gradients[name], memory, coefficients)
            for name, buffer in state.buffers.items():
                buffer.copy_(buffers[name])
        return gradients, terms

    def _loss(
        self,
        parameters: dict[str, Tensor],
        buffers: dict[str, Tensor],
        batch: Batch,
        noise: Tensor,
        temper: Tensor,
    ) -> tuple[Tensor, tuple[Terms, dict[str, Tensor]]]:
        """Minus the objective per datum: the one minus sign of training."""
        # Layers such as batch normalization write to their buffers: let them write to copies.
        buffers = {name: buffer.clone() for name, buffer in buffers.items()}
        with products_in(self.precision, noise.device.type):
            terms: Terms = functional_call(
                self._whole,
                {**parameters, **buffers},
                (batch, noise, temper.to(noise.dtype)),
            )
        objective = terms.objective.mean() + self._log_prior(parameters)
        return -objective, (Terms(*(term.detach() for term in terms)), buffers)

    def _log_prior(self, parameters: dict[str, Tensor]) -> Tensor | float:
        """log p(theta) / N, or nothing."""
        rows = self.weight_prior_rows
        return 0.0 if rows is None else log_weight_prior(parameters) / rows

    def _outside(
        self, optimizer: torch.optim.Optimizer, gradients: dict[str, Tensor], rate_factor: float
    ) -> None:
        for name, p in self._whole.named_parameters():
            if name in gradients:
                p.grad = gradients[name]
        rates = [group["lr"] for group in optimizer.param_groups]
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * rate_factor
        optimizer.step()
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate  # as whoever takes it next expects it

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


def log_weight_prior(parameters: dict[str, Tensor]) -> Tensor | float:
    """log N(theta; 0, I) over the generative parameters."""
    theta = [p for name, p in parameters.items() if name.startswith("model.")]
    size = sum(p.numel() for p in theta)
    squares = torch.stack([p.square().sum() for p in theta]).sum() if theta else 0.0
    return -0.5 * squares - 0.5 * size * math.log(2 * math.pi)
