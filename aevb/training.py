"""The loop: batches, steps, metrics, the best model, checkpoints.

    epoch e:  order = permutation(seed, e);   step t:  batch (seed, t), noise (seed, t)

Everything random in step t is a function of (seed, t), so a run that is stopped anywhere and
resumed takes the same steps, and ends in the same bytes, as one that was never stopped.
"""

import logging
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from aevb.algorithms import Learner, State
from aevb.compilation import Compiled, layouts
from aevb.data import Dataset, Rows
from aevb.devices import Stopwatch, full_float32, tensor_of
from aevb.errors import Interrupted, ModelFileError, TrainingError, UsageError
from aevb.evaluation import bound_parts, bound_sums, evaluating, first_batch, operations
from aevb.machine import kept_memory
from aevb.model import Model
from aevb.plan import Plan, Work
from aevb.portions import Portions
from aevb.posterior import Batch, Posterior, has_rows
from aevb.randomness import Stream, generator, seed_torch, torch_kept

if TYPE_CHECKING:  # a run without a folder does not wait for what checks those
    from aevb.storage import RunFolder

logger = logging.getLogger("aevb")

SECONDS_WORTH_COMPILING_BOUNDS = 8.0
"""Of the bounds after all epochs, uncompiled: from here a compilation pays. Their estimate is half
of what they take."""

NON_FINITE_ADVICE = (
    "try a smaller learning rate (--lr), gradient clipping (--clip 10), or data without extreme "
    "values"
)


class Callback(Protocol):
    """What follows a run; a progress bar, for instance. Each method does nothing by itself.

    An exception in a callback ends the run, which can be resumed from its newest checkpoint.
    Sentences that a person should know do not come here: they go to the logger "aevb".
    Example:
        >>> import aevb, numpy
        >>> class Tell(Callback):
        ...     def epoch(self, record):
        ...         print("epoch", record["epoch"], "after step", record["t"])
        >>> data = aevb.data.load(numpy.random.default_rng(0).normal(size=(20, 2)))
        >>> model = aevb.Model(aevb.standard_normal(1), aevb.gaussian(aevb.MLP(1, [4], 4)))
        >>> learner = aevb.AEVB(model, aevb.mean_field(aevb.MLP(2, [4], 2)))
        >>> history = train(learner, data, Plan(epochs=1, batch_size=8), callbacks=[Tell()])
        epoch 1 after step 2
    """

    def begin(self, done: int, total: int, steps_per_epoch: int) -> None:
        """Training starts, with `done` of `total` steps behind it."""
        return

    def step(self, t: int) -> None:
        """Step t is done."""
        return

    def epoch(self, record: Mapping[str, Any]) -> None:
        """An epoch is done; the record is its line in `metrics.jsonl`."""
        return


@dataclass
class _Progress:
    """Where the run stands between steps: what a checkpoint holds beside the learner's state."""

    epoch: int = 0
    best_epoch: int = 0
    best_bound: float = -math.inf
    best: dict[str, Tensor] = field(default_factory=dict)

    def facts(self, t: int) -> dict[str, Any]:
        bound = self.best_bound if math.isfinite(self.best_bound) else None
        return {"t": t, "epoch": self.epoch, "best_epoch": self.best_epoch, "best_bound": bound}


def train(
    learner: Learner,
    data: Dataset,
    plan: Plan | None = None,
    *,
    run: "RunFolder | None" = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
) -> list[dict[str, Any]]:
    """Train, keep the parameters with the best validation bound, and return the metrics by epoch.

    Every callback is told everything, in their order; the logger "aevb" says what a person should
    know.
    Shapes: the learner's modules are changed in place. Units: nats per datum, to be maximized; the
    bound reported is the bound, whatever beta, warm-up or free bits the objective has.
    Errors: TrainingError where the objective stops being finite; UsageError for a warm-up that
    would not finish; Interrupted after SIGINT or SIGTERM with a run folder, once all is saved.
    Source: Kingma & Welling (2013), algorithm 1.
    Example:
        >>> import aevb
        >>> digits = aevb.data.load("digits")
        >>> decoder = aevb.MLP(2, [32], 64)
        >>> model = aevb.Model(aevb.standard_normal(2), aevb.continuous_bernoulli(decoder))
        >>> posterior = aevb.mean_field(aevb.MLP(64, [32], 4))
        >>> history = train(aevb.AEVB(model, posterior), digits, Plan(epochs=2))
        >>> history[1]["validation"]["elbo"] > history[0]["validation"]["elbo"]
        True
    """
    plan = plan or Plan()
    _require("learner", learner, Learner, "like aevb.AEVB(model, posterior)")
    _require("data", data, Dataset, "which aevb.data.load makes of a file or an array")
    _require("plan", plan, Plan, "like aevb.Plan(epochs=5)")
    loop = _Loop(learner, data, plan, run, callbacks)
    with run.locked() if run is not None else nullcontext(), loop.running():
        if resume:
            loop.resume()
        elif run is not None and run.begun:
            raise UsageError(
                f"{run.path} holds the checkpoints or metrics of another run: resume it, or name "
                "another folder"
            )
        return loop.run_to_end()


def _require(name: str, found: object, kind: type, how: str) -> None:
    if not isinstance(found, kind):
        raise UsageError(f"{name} is a {kind.__name__}, {how}, found {type(found).__name__}")


class _Loop:
    """One run from its first step, or from a checkpoint, to its last."""

    def __init__(
        self,
        learner: Learner,
        data: Dataset,
        plan: Plan,
        run: "RunFolder | None",
        callbacks: Sequence[Callback],
    ) -> None:
        self.learner, self.plan, self.run, self.callbacks = learner, plan, run, callbacks
        self.rows, self.validation = data.train, self._validation_rows(data)
        learner.treatment = self.rows.treatment
        self.per_epoch = plan.steps_per_epoch(len(self.rows))
        self.total = plan.epochs * self.per_epoch
        if plan.warmup_steps >= self.total:
            raise UsageError(
                f"a warm-up of {plan.warmup_steps} steps would not finish: the run has "
                f"{self.total} steps ({plan.epochs} epochs of {self.per_epoch}); choose fewer"
            )
        if learner.needs_all and plan.batch_size < len(self.rows):
            raise UsageError(
                f"{type(learner).__name__} sees all rows in each step: a batch size of "
                f"{plan.batch_size} is too small for the {len(self.rows)} there are"
            )
        if plan.patience is not None and self.validation is None:
            raise UsageError(
                "patience needs a validation bound, and there is none without validation rows "
                "(X_val of fit), nor for free parameters of each datum: give some, or leave it out"
            )
        self.state: State = learner.init()
        self.progress = _Progress()
        self.history: list[dict[str, Any]] = []
        self.stop_signal: int | None = None
        self.said = False
        like = tensor_of(learner.model)
        self.device = like.device
        self.compiled_sums = Compiled(bound_sums, device=self.device.type)
        self.long_bounds = self._bounds_worth_compiling()
        with evaluating(learner.model, learner.posterior):
            noise = learner.noise(first_batch(learner.model, self.rows))
        self.portions = Portions(self.rows, noise, like, plan.batch_size, plan.samples, plan.seed)

    def _bounds_worth_compiling(self) -> bool:
        if self.validation is None:
            return False
        rows = len(self.validation)
        by_row = sum(operations(self.learner.model, self.learner.posterior, self.validation))
        steps = self.plan.epochs * math.ceil(rows / 1000)
        work = Work(by_row * min(1000, rows), steps, self.device.type)
        return work.seconds > SECONDS_WORTH_COMPILING_BOUNDS

    def _validation_rows(self, data: Dataset) -> Rows | None:
        # Free parameters exist for the training rows only: nothing held out can be scored by them.
        scored = len(data.validation) > 0 and not has_rows(self.learner.posterior)
        return data.validation if scored else None

    # -- the loop ---------------------------------------------------------------------------------

    def run_to_end(self) -> list[dict[str, Any]]:
        for callback in self.callbacks:
            callback.begin(self.state.t, self.total, self.per_epoch)
        self.saved_at = time.monotonic()
        while not self._over():
            self._epoch()
        self._select_best()
        self.learner.model.eval()
        self.learner.posterior.eval()
        if self.run is not None:
            self._checkpoint()
            self.run.save_weights(self.learner.model, self.learner.posterior)
        return self.history

    def _epoch(self) -> None:
        plan, epoch = self.plan, self.progress.epoch
        # Layers that draw for themselves, dropout say, draw from torch's generator: seed it too.
        seeds = generator(plan.seed, Stream.LAYERS, epoch).integers(2**63, size=self.per_epoch)
        done = self.state.t - epoch * self.per_epoch
        if done == 0:
            self.state.totals.zero_()
        started, inside = time.perf_counter(), Stopwatch(self.device)
        self.learner.model.train()
        self.learner.posterior.train()
        with self.portions.of_epoch(epoch, done) as portions:
            for i, (batch, noise) in enumerate(portions, start=done):
                seed_torch(int(seeds[i]), self.device)
                with inside.running():
                    self._step(batch, noise)
                for callback in self.callbacks:
                    callback.step(self.state.t)
                if self.stop_signal is not None:
                    self._stop(self.stop_signal)
                if i + 1 < self.per_epoch:
                    self._checkpoint_if_due()
        busy = inside.total()  # which waits for a GPU
        elapsed = time.perf_counter() - started
        rows = max(0, len(self.rows) - done * plan.batch_size)
        self._close_epoch(rows, elapsed, busy)

    def _step(self, batch: Batch, noise: Tensor) -> None:
        plan, t = self.plan, self.state.t
        self.learner.step(
            self.state, batch, noise, plan.schedule(t / self.total), plan.temper(t + 1)
        )
        if self.learner.note is not None and not self.said:
            logger.warning(self.learner.note)
            self.said = True

    def _close_epoch(self, rows: int, elapsed: float, busy: float) -> None:
        self._require_finite()
        self.progress.epoch += 1
        record: dict[str, Any] = {
            "epoch": self.progress.epoch,
            "t": self.state.t,
            "train": self.state.averages(),
            "validation": self._validate(),
            "learning_rate_factor": self.plan.schedule((self.state.t - 1) / self.total),
            "beta": self.plan.temper(self.state.t),
            "rows_per_second": rows / elapsed,
            "overhead": 1 - busy / elapsed,
            "seconds": elapsed,
            **self.learner.facts(self.state),
        }
        self._remember_best(record["validation"])
        self.history.append(record)
        if self.run is not None:
            self.run.append_metrics(record)
        for callback in self.callbacks:
            callback.epoch(record)
        self._checkpoint_if_due()

    # -- validation, selection -------------------------------------------------------------

    def _validate(self) -> dict[str, float] | None:
        if self.validation is None:
            return None
        pair = self.learner.model, self.learner.posterior
        sums = self._bound_sums if self.learner.compiled and self.long_bounds else bound_sums
        parts = bound_parts(*pair, self.validation, seed=self.plan.seed, sums=sums)
        if not math.isfinite(parts["elbo"]):
            raise TrainingError(
                f"the validation bound is not finite after epoch {self.progress.epoch} "
                f"(step {self.state.t}): {NON_FINITE_ADVICE}{self._last_good()}"
            )
        return parts

    def _bound_sums(self, model: Model, posterior: Posterior, batch: Batch, noise: Tensor) -> Any:
        return self.compiled_sums(layouts((*batch, noise)), model, posterior, batch, noise)

    def _remember_best(self, validation: Mapping[str, float] | None) -> None:
        if validation is not None and validation["elbo"] > self.progress.best_bound:
            self.progress.best_bound = validation["elbo"]
            self.progress.best_epoch = self.progress.epoch
            self.progress.best = {name: tensor.clone() for name, tensor in self._selected().items()}

    def _selected(self) -> dict[str, Tensor]:
        """The tensors that make the model: parameters and buffers, without the optimizer's."""
        return {
            k: v
            for k, v in self.state.tensors().items()
            if k.startswith(("parameters/", "buffers/"))
        }

    def _select_best(self) -> None:
        """Put the parameters with the best validation bound into the modules."""
        if self.progress.best_epoch not in (0, self.progress.epoch):
            for name, tensor in self._selected().items():
                tensor.copy_(self.progress.best[name])

    def _over(self) -> bool:
        """Whether the plan, its patience or the learner itself wants no further epoch."""
        epoch, patience = self.progress.epoch, self.plan.patience
        stale = patience is not None and epoch - self.progress.best_epoch >= patience
        return epoch >= self.plan.epochs or stale or self.learner.arrived(self.state)

    # -- stopping, saving, resuming ---------------------------------------------------------------

    def _require_finite(self) -> None:
        if failure := self.state.failure():
            what, bad = failure
            epoch = (bad - 1) // self.per_epoch + 1
            raise TrainingError(
                f"{what} not finite at step {bad} (epoch {epoch}): "
                f"{NON_FINITE_ADVICE}{self._last_good()}"
            )

    def _last_good(self) -> str:
        if self.run is None or not self.run.has_checkpoint:
            return ""
        return f"; the last good checkpoint is kept in {self.run.path}"

    def _checkpoint_if_due(self) -> None:
        if self.run and time.monotonic() - self.saved_at >= self.run.checkpoint_seconds:
            self._checkpoint()

    def _checkpoint(self) -> None:
        assert self.run is not None
        self._require_finite()
        tensors = self.state.tensors() | {f"best/{k}": v for k, v in self.progress.best.items()}
        tensors |= self.learner.outside_tensors()
        self.run.save_checkpoint(self.state.t, tensors, self.progress.facts(self.state.t))
        self.saved_at = time.monotonic()

    def resume(self) -> None:
        """Continue from the newest whole checkpoint, or from the start where there is none."""
        if self.run is None:
            raise UsageError("there is nothing to resume without a run folder")
        found = self.run.newest_checkpoint(logger.warning)
        if found is None:
            self.run.keep_epochs(0)
            return
        shapes = {name: tensor.shape for name, tensor in self.state.tensors().items()}
        if shapes != {n: t.shape for n, t in found.tensors.items() if n in shapes}:
            raise ModelFileError(
                f"the checkpoint in {self.run.path} is not of this model and optimizer: resume "
                "with those that the run was begun with"
            )
        for name, tensor in self.state.tensors().items():
            tensor.copy_(found.tensors[name])
        self.learner.load_outside_tensors(found.tensors)
        facts = found.facts
        self.state.t = facts["t"]
        best = {
            k.removeprefix("best/"): v for k, v in found.tensors.items() if k.startswith("best/")
        }
        bound = -math.inf if facts["best_bound"] is None else facts["best_bound"]
        self.progress = _Progress(facts["epoch"], facts["best_epoch"], bound, best)
        self.run.keep_epochs(self.progress.epoch)
        self.history = self.run.history()

    def _stop(self, number: int) -> None:
        assert self.run is not None
        name = signal.Signals(number).name
        self._checkpoint()
        command, call = f"aevb train --out {self.run.path} --resume", "train(..., resume=True)"
        how = command if self.run.exists else f"{call} in {self.run.path}"
        where = f"step {self.state.t} of {self.total}"
        said = f"stopped by {name} at {where}, and saved: go on with {how}"
        raise Interrupted(said, number)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Torch's generators left as found; signals noted while there is a folder to save to."""
        with torch_kept(self.device), kept_memory(), full_float32():
            if self.run is None or threading.current_thread() is not threading.main_thread():
                yield
                return
            numbers = (signal.SIGINT, signal.SIGTERM)
            previous = {number: signal.signal(number, self._note_signal) for number in numbers}
            try:
                yield
            finally:
                for number, handler in previous.items():
                    signal.signal(number, handler)

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        if self.stop_signal is not None:  # asked twice: do not wait for the step
            os._exit(128 + number)
        self.stop_signal = number
