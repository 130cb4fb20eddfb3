"""aevb: the loop of `aevb.train` over bytes in memory or in a file, and `evidence`.

An epoch is one of `aevb.train`, with its batches, noise and metrics; the loop runs in a thread that
waits between turns, so that one run with one compiled step spans all rounds.
"""

import threading
from collections.abc import Callable, Mapping
from functools import partial
from queue import SimpleQueue
from typing import Any

import common
import numpy as np
import torch
from common import IMAGE, WIDTH, Spec, Task, fastest, held_rows, serve, train_rows
from torch import nn

import aevb
from aevb.data import Binarization, Dataset, Rows, Source, open_source
from aevb.evaluation import bound_parts
from aevb.machine import PROCESS_START, usable_threads
from aevb.plan import Plan, work_of

MANY_EPOCHS = 100_000


def modules(spec: Spec) -> tuple[aevb.Model, Any]:
    torch.manual_seed(0)
    if spec.channels:
        encoder: nn.Module = aevb.ConvolutionalEncoder(IMAGE, spec.channels, 2 * spec.latents)
        decoder: nn.Module = aevb.ConvolutionalDecoder(spec.latents, spec.channels, IMAGE)
    else:
        encoder, decoder = _mlp(spec, "encoder"), _mlp(spec, "decoder")
    model = aevb.Model(aevb.standard_normal(spec.latents), aevb.bernoulli(decoder))
    return model.to(spec.device), aevb.mean_field(encoder).to(spec.device)


def _mlp(spec: Spec, name: str) -> aevb.MLP:
    n_in, *hidden, n_out = spec.layers(name)
    net = aevb.MLP(n_in, hidden, n_out)
    weights = common.first_weights(spec)
    for k, layer in enumerate(_linear(net)):
        layer.weight.data.copy_(torch.from_numpy(weights[f"{name}.{k}.weight"]))
        layer.bias.data.copy_(torch.from_numpy(weights[f"{name}.{k}.bias"]))
    return net


def _linear(module: nn.Module) -> list[nn.Linear]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


def learner(spec: Spec, compiled: bool) -> aevb.AEVB:
    """The learner as `aevb train` makes it."""
    return aevb.AEVB(
        *modules(spec),
        objective=aevb.iwae if spec.iwae else aevb.elbo_b,
        optimizer=aevb.Adam(spec.rate),
        compiled=compiled,
    )


def resident(values: np.ndarray, binarize: Binarization = Binarization.NONE) -> Rows:
    values = values.reshape(len(values), -1)
    scale = 1.0 if binarize is Binarization.NONE else 1 / 255
    return Rows(values, np.arange(len(values)), (WIDTH,), scale, binarize)


def rows_of(spec: Spec) -> tuple[Rows, Rows]:
    """Training and held-out rows."""
    if spec.data != "mnist":
        return resident(train_rows(spec)), resident(held_rows(spec))
    source = open_source("mnist")
    first = 60_000 if spec.rows is None else spec.rows
    cut = Binarization.THRESHOLD
    return resident(source.values[:first], cut), resident(source.values[60_000:62_000], cut)


def dataset(rows: Rows) -> Dataset:
    nothing = Rows(rows.values, np.arange(0), (WIDTH,))
    source = Source("benchmark", rows.values, (WIDTH,), "bernoulli", "zeros and ones", "none")
    return Dataset(source, rows, nothing, nothing)


class Turns:
    """A callback of `aevb.train` that stops after every so many epochs or steps, until asked."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self.asked: SimpleQueue[int | Callable[[], Any]] = SimpleQueue()
        self.done: SimpleQueue[Any] = SimpleQueue()
        self.left = 0

    def ask(self, what: int | Callable[[], Any]) -> Any:
        """So many units of training, or a call: both in the thread that trains."""
        self.asked.put(what)
        if isinstance(answer := self.done.get(), BaseException):
            raise answer
        return answer

    def begin(self, done: int, total: int, steps_per_epoch: int) -> None:
        self._wait()

    def step(self, t: int) -> None:
        self._count("step")

    def epoch(self, record: Mapping[str, Any]) -> None:
        self._count("epoch")

    def _count(self, unit: str) -> None:
        if unit == self.unit:
            self.left -= 1
            if self.left == 0:
                self.done.put(None)
                self._wait()

    def _wait(self) -> None:
        while not isinstance(what := self.asked.get(), int):
            self.done.put(what())
        self.left = what


class Training:
    """One call of `aevb.train`, in a thread that does all that torch is asked for.

    With threads of torch's in two threads of ours OpenMP would take the machine for overfull and
    let them sleep between any two operations.
    """

    unit = "epoch"

    def __init__(self, compiled: bool, spec: Spec) -> None:
        self.compiled, self.spec, self.turns = compiled, spec, Turns(self.unit)
        threading.Thread(target=self._train, daemon=True).start()

    def _data(self) -> Dataset:
        rows, self.held = rows_of(self.spec)
        return dataset(rows)

    def _train(self) -> None:
        spec = self.spec
        plan = Plan(MANY_EPOCHS, spec.batch, spec.samples, schedule=lambda done: 1.0)
        try:
            self.learner, data = learner(spec, self.compiled), self._data()
            pair = self.learner.model, self.learner.posterior
            work = work_of(*pair, data.train, plan, spec.device)
            given = spec.precision != "default"
            self.learner.precision = spec.precision if given else work.precision
            idle = usable_threads(spec.threads, PROCESS_START)
            torch.set_num_threads(idle if work.worth_threads else 1)
            aevb.train(self.learner, data, plan, callbacks=[self.turns])
        except BaseException as error:
            self.turns.done.put(error)

    def run(self, units: int) -> None:
        self.turns.ask(units)
        if self.learner.note:
            raise RuntimeError(self.learner.note)

    def bound(self) -> Any:
        return self.turns.ask(self._bound)

    def _bound(self) -> float:
        model, posterior = self.learner.model, self.learner.posterior
        if not self.spec.iwae:
            return bound_parts(model, posterior, self.held)["elbo"]
        return aevb.evidence(model, posterior, self.held, self.spec.samples).importance.mean

    def weights(self) -> dict[str, np.ndarray]:
        nets = {"encoder": self.learner.posterior, "decoder": self.learner.model}
        return {
            f"{name}.{k}.{part}": getattr(layer, part).detach().cpu().numpy()
            for name, module in nets.items()
            for k, layer in enumerate(_linear(module))
            for part in ("weight", "bias")
        }


class Mapped(Training):
    """Training on a file by path, as a user names it; the units are steps."""

    unit = "step"

    def _data(self) -> Dataset:
        return aevb.data.load(self.spec.data, "none")


class Evidence:
    def __init__(self, spec: Spec) -> None:
        torch.set_num_threads(spec.threads)
        self.model, self.posterior = modules(spec)
        self.held, self.samples, self.mean = held_rows(spec), spec.samples, 0.0
        self.precision = "float32" if spec.precision == "default" else spec.precision

    def run(self, units: int) -> None:
        rows = resident(self.held[: max(units, 4)])  # to warm up takes a whole chunk
        # A long estimate is compiled; these are portions of one.
        how = {"compiled": True, "precision": self.precision}
        result = aevb.evidence(self.model, self.posterior, rows, self.samples, **how)
        self.mean = result.importance.mean

    def bound(self) -> float:
        return self.mean


def train(spec: Spec) -> Task:
    """The compiled step unless the eager one is asked for: a long run is worth the compilation."""
    kinds = {"compiled": partial(Training, True), "eager": partial(Training, False)}
    choice = spec.choice or "compiled"
    return fastest({choice: kinds[choice]})(spec)


if __name__ == "__main__":
    serve(
        {
            "train": train,
            "mapped": fastest({"mapped": partial(Mapped, True)}),
            "evidence": fastest({"evidence": Evidence}),
        }
    )
