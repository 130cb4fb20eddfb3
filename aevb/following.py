"""What follows a run and keeps what it saw: snapshots of codes and samples, TensorBoard's events.

Both are callbacks that leave training as it is: a run that is followed ends in the same bytes.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aevb.codes import decode
from aevb.data import Rows
from aevb.distributions import center
from aevb.errors import UsageError
from aevb.evaluation import batch_for, evaluating
from aevb.model import Model
from aevb.posterior import Posterior
from aevb.randomness import Stream, generator
from aevb.storage import snapshots
from aevb.storage.files import writing
from aevb.training import Callback

MOMENTS, CODES, SAMPLES = 20, 500, 10
SNAPSHOT_COUNTER = 2  # of the sampling stream, whose 0 and 1 are for z and x of `codes.sample`
PARTS = ("elbo", "reconstruction", "kl")


def moments(epochs: int) -> set[int]:
    """About 20 epochs from the first to the last, spaced evenly in log time.

    Example:
        >>> sorted(moments(10))
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
        >>> len(moments(1000)), max(moments(1000))
        (19, 1000)
    """
    return {int(e) for e in np.unique(np.round(np.geomspace(1, epochs, MOMENTS)))}


class Snapshots(Callback):
    """Keeps what the model looks like at about 20 epochs, for pictures that move.

        E_q[z given x] of up to 500 of the rows;   E[x given z] of 10 fixed draws z from the prior

    The same rows and draws at every moment; `aevb.storage.RunFolder.snapshots` reads them back. For
    a posterior with free parameters for each datum, the rows must be those that it is trained on.
    Shapes: N of the rows; T snapshots have codes (T, N, D) and samples (T, 10, X).
    Units: samples in those of the data, as the model sees them.
    Errors: TrainingError where the folder cannot be written.
    Example:
        >>> import aevb, tempfile
        >>> digits = aevb.data.load("digits", limit=100)
        >>> decoder = aevb.MLP(2, [4], 64)
        >>> model = aevb.Model(aevb.standard_normal(2), aevb.continuous_bernoulli(decoder))
        >>> posterior = aevb.mean_field(aevb.MLP(64, [4], 4))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     keep = Snapshots(model, posterior, digits.validation, Path(folder))
        ...     history = aevb.train(
        ...         aevb.AEVB(model, posterior), digits, aevb.Plan(epochs=2), callbacks=[keep]
        ...     )
        ...     snapshots.read(Path(folder)).codes.shape
        (2, 180, 2)
    """

    def __init__(
        self, model: Model, posterior: Posterior, rows: Rows, folder: Path, *, seed: int = 0
    ) -> None:
        self.model, self.posterior, self.folder, self.seed = model, posterior, folder, seed
        order = generator(seed, Stream.SUBSET).permutation(len(rows))
        # Their numbers among all rows stay with them: free parameters are found by the number.
        positions = np.sort(order[:CODES])
        self.batch = batch_for(model, rows.take(positions), positions)
        self.labels = None if rows.labels is None else rows.labels[positions]
        self.due: set[int] = set()

    def begin(self, done: int, total: int, steps_per_epoch: int) -> None:
        self.due = moments(total // steps_per_epoch)
        with writing(self.folder):
            snapshots.forget_after(self.folder, done // steps_per_epoch)

    def epoch(self, record: Mapping[str, Any]) -> None:
        if record["epoch"] in self.due:
            codes, samples = self.look()
            with writing(self.folder):
                snapshots.write(self.folder, record["epoch"], codes, self.labels, samples)

    def look(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The codes (N, D) and the decoded draws (10, X) of the model as it is now."""
        with evaluating(self.model, self.posterior):
            codes = center(self.posterior(self.batch)).double().cpu().numpy()
            source = generator(self.seed, Stream.SAMPLING, SNAPSHOT_COUNTER)
            z = self.model.sample_prior(SAMPLES, source).double().cpu().numpy()
        return codes, decode(self.model, z)


class TensorBoard(Callback):
    """Writes the metrics of every epoch as event files that TensorBoard shows.

    Scalars `train/elbo`, `train/reconstruction`, `train/kl`, the same of `validation`,
    `learning_rate` (of `lr` times the schedule's factor) and `rows_per_second`, by
    epoch; `about` as a text. A run that is resumed into the same folder hides what an earlier
    attempt wrote of the epochs from there on. Each epoch is on the disk once it is over.
    Units: nats per datum.
    Errors: UsageError where tensorboardX is not installed; TrainingError where the folder cannot be
    written.
    Example:
        >>> import aevb, tempfile
        >>> data = aevb.data.load(np.random.default_rng(0).normal(size=(20, 2)))
        >>> model = aevb.Model(aevb.standard_normal(1), aevb.gaussian(aevb.MLP(1, [4], 4)))
        >>> learner = aevb.AEVB(model, aevb.mean_field(aevb.MLP(2, [4], 2)))
        >>> with tempfile.TemporaryDirectory() as folder, TensorBoard(Path(folder)) as board:
        ...     history = aevb.train(learner, data, aevb.Plan(epochs=2), callbacks=[board])
        ...     len(list(Path(folder).glob("events.*")))
        1
    """

    def __init__(self, folder: Path, *, lr: float = 1.0, about: str = "") -> None:
        require_tensorboard()
        self.folder, self.lr, self.about = folder, lr, about
        self._events: Any = None

    def epoch(self, record: Mapping[str, Any]) -> None:
        scalars = {
            f"{which}/{part}": record[which][part]
            for which in ("train", "validation")
            if record[which] is not None
            for part in PARTS
            if record[which][part] is not None
        }
        scalars["learning_rate"] = self.lr * record["learning_rate_factor"]
        scalars["rows_per_second"] = record["rows_per_second"]
        with writing(self.folder):
            if self._events is None:
                self._open(record["epoch"])
            for name, value in scalars.items():
                self._write(record["epoch"], summary=_summary().scalar(name, value))
            self._events.flush()

    def _open(self, epoch: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        # Not tensorboardX's SummaryWriter: it hands events to a thread, and a kill loses them.
        self.folder.mkdir(parents=True, exist_ok=True)
        # Files are named by the second, and read in the order of their names.
        self._events = EventsWriter(str(self.folder / "events"), f".from-{epoch:06d}")
        self._write(epoch, session_log=SessionLog(status=SessionLog.START))
        if self.about:
            self._write(epoch, summary=_summary().text("about", self.about))

    def _write(self, epoch: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._events.write_event(Event(wall_time=time.time(), step=epoch, **content))

    def close(self) -> None:
        """Close the event file; without it the file is whole too."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def require_tensorboard() -> None:
    """Refuse to go on without tensorboardX, before anything is begun.

    Errors: UsageError, with what to install.
    Example:
        >>> import sys
        >>> from unittest.mock import patch
        >>> with patch.dict(sys.modules, tensorboardX=None):  # as if it were not there
        ...     require_tensorboard()
        Traceback (most recent call last):
            ...
        aevb.errors.UsageError: writing TensorBoard's files needs tensorboardX: pip install ...
    """
    try:
        _summary()
    except ImportError:
        raise UsageError(
            "writing TensorBoard's files needs tensorboardX: pip install 'aevb[tensorboard]'"
        ) from None


def _summary() -> Any:
    from tensorboardX import summary

    return summary
