"""Pyro: `SVI` with `pyro.optim.Adam` over tensors that lie in memory, no validation of arguments.

An epoch: a random order, batches taken by index, one `SVI.step` each. Which ELBO: the fastest of
Trace and TraceMeanField, as they are or traced by torch.jit; RenyiELBO(alpha=0) for IWAE.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from common import Maker, Spec, fastest, held_rows, serve, train_rows
from pyro.infer import (
    SVI,
    JitTrace_ELBO,
    JitTraceMeanField_ELBO,
    RenyiELBO,
    Trace_ELBO,
    TraceMeanField_ELBO,
)
from torch import Tensor
from torch_nets import nets, on_threads

pyro.enable_validation(False)
torch.distributions.Distribution.set_default_validate_args(False)


class Training:
    def __init__(self, elbo: Callable[[Spec], Any], spec: Spec) -> None:
        pyro.clear_param_store()
        torch.manual_seed(0)
        self.spec = spec
        self.encoder, self.decoder = nets(spec)
        optimizer = pyro.optim.Adam({"lr": spec.rate})
        self.svi = SVI(self.model, self.guide, optimizer, elbo(spec))
        self.data = torch.from_numpy(train_rows(spec)).float()

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("rows", x.shape[0]):
            zero = x.new_zeros(x.shape[0], self.spec.latents)
            z = pyro.sample("z", dist.Normal(zero, torch.ones_like(zero)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("rows", x.shape[0]):
            mean, log_variance = self.encoder(x).chunk(2, dim=-1)
            pyro.sample("z", dist.Normal(mean, torch.exp(0.5 * log_variance)).to_event(1))

    def run(self, units: int) -> None:
        for _ in range(units):
            for rows in torch.randperm(len(self.data)).split(self.spec.batch):
                self.svi.step(self.data[rows])

    def bound(self) -> float:
        held = torch.from_numpy(held_rows(self.spec)).float()
        elbo = _renyi(self.spec) if self.spec.iwae else TraceMeanField_ELBO()
        total = sum(elbo.loss(self.model, self.guide, x) for x in held.split(500))
        return -total / len(held)


def _renyi(spec: Spec) -> RenyiELBO:
    return RenyiELBO(0.0, spec.samples, max_plate_nesting=1, vectorize_particles=True)


def _elbo(kind: type, spec: Spec) -> Any:
    vectorized = {"vectorize_particles": True} if spec.samples > 1 else {}
    ignore = {"ignore_jit_warnings": True} if kind.__name__.startswith("Jit") else {}
    return kind(num_particles=spec.samples, max_plate_nesting=1, **vectorized, **ignore)


def train(spec: Spec) -> Training:
    kinds = (Trace_ELBO, TraceMeanField_ELBO, JitTrace_ELBO, JitTraceMeanField_ELBO)
    makers: dict[str, Maker] = {k.__name__: partial(Training, partial(_elbo, k)) for k in kinds}
    if spec.iwae:
        makers = {"RenyiELBO": partial(Training, _renyi)}
    return fastest(on_threads(makers, spec.threads))(spec)


if __name__ == "__main__":
    serve({"train": train})
