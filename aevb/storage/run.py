"""A run folder: one training run with its description, weights, metrics, checkpoints, figures."""

import fcntl
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from aevb.data import Binarization, Column, Dataset, Rows, all_rows, split
from aevb.errors import DataError, ModelFileError, TrainingError, name_shortly, reason, shortly
from aevb.evaluation import posterior_for
from aevb.files import replace_atomically
from aevb.model import Model
from aevb.posterior import Posterior
from aevb.refinement import refined
from aevb.settings import Settings, check_settings
from aevb.storage import checkpoints, metrics, snapshots, weights
from aevb.storage.checkpoints import Checkpoint
from aevb.storage.description import MAX_WIDTH
from aevb.storage.facts import columns_of
from aevb.storage.files import read_json, to_json, writing
from aevb.storage.settings import source_of
from aevb.storage.snapshots import Trail
from aevb.storage.unfinished import Unfinished

CARD, LOCK, EVALUATION = "README.md", ".lock", "evaluation.json"
REPORT = "report.html"
OWN = (
    weights.WEIGHTS,
    metrics.METRICS,
    metrics.TABLE,
    EVALUATION,
    REPORT,
    CARD,
    "checkpoints",
    "figures",
    "snapshots",
    "tensorboard",
    "unfinished",
    weights.CONFIG,
)

IN_MEMORY = ("array", "frame")
"""What the data of a run that was fitted in Python are called."""
MAX_AXES = 8


class RunFolder:
    """The folder of a run; one process at a time holds it.

    `model.safetensors`, `config.json`, `README.md` (the card), `metrics.jsonl` (a line per epoch),
    `metrics.csv` (the same as a table), `evaluation.json` (the last one), `report.html`,
    `checkpoints/`, `figures/`, `snapshots/`, `tensorboard/`, `unfinished/` (evaluations that were
    stopped).
    Errors: ModelFileError for files that are missing, damaged, or not of such a run; TrainingError
    where another process holds the folder, it cannot be written, or parameters are not finite;
    DataError where the data have changed, are in no file, or do not fit the model.
    Example:
        >>> import aevb, numpy as np, tempfile
        >>> data = aevb.data.load(np.random.default_rng(0).normal(size=(20, 2)))
        >>> model = aevb.Model(aevb.standard_normal(1), aevb.gaussian(aevb.MLP(1, [4], 4)))
        >>> learner = aevb.AEVB(model, aevb.mean_field(aevb.MLP(2, [4], 2)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = RunFolder(folder)
        ...     told = aevb.train(learner, data, aevb.Plan(epochs=2), run=run)
        ...     run.history() == told, run.has_checkpoint
        (True, True)
    """

    checkpoint_seconds = 30.0
    """The least time between two checkpoints."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._held = False

    @property
    def exists(self) -> bool:
        """Whether a run was begun here."""
        return (self.path / weights.CONFIG).exists()

    @property
    def begun(self) -> bool:
        """Whether training has left checkpoints or metrics here."""
        return self.has_checkpoint or (self.path / metrics.METRICS).exists()

    @property
    def has_checkpoint(self) -> bool:
        """Whether training has left a checkpoint here, whole or not."""
        return any(self._checkpoints.glob("step-*"))

    @property
    def figures(self) -> Path:
        """The folder of pictures that `aevb plot` draws."""
        return self.path / "figures"

    @property
    def snapshots_folder(self) -> Path:
        """The folder of what the model looked like along its training."""
        return self.path / "snapshots"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's files."""
        return self.path / "tensorboard"

    @property
    def _checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; TrainingError where another process does. A killed process lets go."""
        if self._held:
            yield
            return
        made = [path for path in (self.path, *self.path.parents) if not path.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise TrainingError(f"{self.path} cannot be written ({reason(error)})") from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise TrainingError(
                    f"{self.path} is in use by another process: wait for it, or name another "
                    "folder with --out"
                ) from None
            self._held = True
            checkpoints.clear_unfinished(self.path)
            checkpoints.clear_unfinished(self._checkpoints)
            checkpoints.clear_unfinished(self.snapshots_folder)
            yield
        except BaseException:
            if self._held and made and os.listdir(self.path) == [LOCK]:  # nothing came of it
                shutil.rmtree(self.path)
                with suppress(OSError):  # another run is begun there
                    for parent in made[1:]:
                        parent.rmdir()
            raise
        finally:
            self._held = False
            os.close(handle)

    def strangers(self) -> list[str]:
        """What lies here under a name that a run would write to, where no run was begun."""
        return [] if self.exists else [name for name in OWN if (self.path / name).exists()]

    def clear(self) -> None:
        """Remove what an earlier run left here, and nothing else; what marks it as a run last."""
        for name in OWN:
            target = self.path / name
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)

    def config(self) -> dict[str, Any]:
        """The content of `config.json`; ModelFileError where there is none that can be read."""
        return read_json(self.path / weights.CONFIG)

    def write_config(self, model: Model, posterior: Posterior, facts: Mapping[str, Any]) -> None:
        """Describe model and posterior in `config.json`, beside `facts`: a run is begun."""
        content = weights.config_of(model, posterior, facts)
        with writing(self.path):
            replace_atomically(self.path / weights.CONFIG, content)

    def load(self, modules: Mapping[str, nn.Module] | None = None) -> tuple[Model, Posterior]:
        """The selected model, in evaluation mode; ModelFileError where there is none."""
        return weights.load(self.path, modules)

    def save_weights(self, model: Model, posterior: Posterior) -> None:
        """Write the weights in one step; TrainingError for any that are not finite."""
        with writing(self.path):
            weights.save_weights(self.path, model, posterior)

    def write_card(self, text: str) -> None:
        """Put the text, which is Markdown, into `README.md`."""
        with writing(self.path):
            replace_atomically(self.path / CARD, text.encode())

    def write_evaluation(self, report: Mapping[str, Any]) -> None:
        """Keep the report of an evaluation, with the checksum of the weights that it is of."""
        content = {**report, "weights": weights.checksum(self.path)}
        with writing(self.path):
            replace_atomically(self.path / EVALUATION, to_json(content))

    def evaluation(self) -> dict[str, Any] | None:
        """The report of the last evaluation; None where there is none, or of other weights.

        Errors: ModelFileError for a file that is no such report.
        """
        if not (self.path / EVALUATION).exists():
            return None
        report = read_json(self.path / EVALUATION)
        certificates = [report.get(name) for name in ("importance", "elbo")]
        for certificate in [c for c in certificates if c is not None]:
            _check_certificate(certificate, self.path / EVALUATION)
        if report.get("weights") != weights.checksum(self.path):
            return None
        return report

    def unfinished(self, facts: Mapping[str, Any]) -> Unfinished:
        """A place for work on these weights that all these facts decide, until it is done."""
        of_these = {**facts, "weights": weights.checksum(self.path)}
        return Unfinished(self.path / "unfinished", of_these)

    def history(self) -> list[dict[str, Any]]:
        """The metrics of each epoch that was written whole."""
        return metrics.read(self.path)

    def replace_metrics(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Put these metrics in place of what is there."""
        with writing(self.path):
            metrics.write(self.path, records)

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add the metrics of an epoch to those that are here."""
        with writing(self.path):
            metrics.append(self.path, record)

    def keep_epochs(self, n: int) -> None:
        """Cut the metrics back to the first n epochs, where a checkpoint resumes."""
        with writing(self.path):
            metrics.keep(self.path, n)

    def snapshots(self) -> Trail:
        """What the model looked like along its training; nothing where none were kept."""
        return snapshots.read(self.snapshots_folder)

    def save_checkpoint(
        self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
    ) -> None:
        """Keep all that training needs to go on from a step, in one step.

        Errors: TrainingError for parameters that are not finite, or a folder that cannot be
        written.
        """
        weights.require_finite({k: v for k, v in tensors.items() if k.startswith("parameters/")})
        with writing(self.path):
            checkpoints.save(self._checkpoints, step, tensors, facts)

    def newest_checkpoint(self, report: Callable[[str], None]) -> Checkpoint | None:
        """The newest checkpoint that is whole; `report` is told of any that is damaged."""
        return checkpoints.newest(self._checkpoints, report)

    def settings(self) -> Settings:
        """The settings that the run was begun with."""
        found = self.config().get("settings")
        if not isinstance(found, dict):
            raise ModelFileError(
                f"{self.path} was saved from Python and has no settings: load it with aevb.load"
            )
        return check_settings(found, str(self.path / weights.CONFIG))

    @property
    def in_memory(self) -> bool:
        """Whether it was fitted in Python, on data that no file holds."""
        return self.settings().data in IN_MEMORY

    @property
    def shape(self) -> tuple[int, ...]:
        """The event shape of a datum of the run."""
        shape = self.data_facts().get("shape")
        sizes = shape if isinstance(shape, list) and len(shape) <= MAX_AXES else []
        if not sizes or not all(type(n) is int and 1 <= n <= MAX_WIDTH for n in sizes):
            raise ModelFileError(
                f"{self.path} does not say the shape of its data: it was saved from Python, or "
                f"its {weights.CONFIG} was changed"
            )
        return tuple(sizes)

    def data_facts(self) -> dict[str, Any]:
        """What the config says of the data, nothing where it says none."""
        facts = self.config().get("data", {})
        if not isinstance(facts, dict):
            raise ModelFileError(
                f"{self.path / weights.CONFIG}: data must be an object, found {shortly(facts)}"
            )
        return facts

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of the table that the model was fitted on, where it was one."""
        columns = columns_of(self.data_facts(), str(self.path / weights.CONFIG))
        if columns and len(columns) != math.prod(self.shape):
            raise ModelFileError(
                f"{self.path / weights.CONFIG} names {len(columns)} columns of rows of "
                f"{math.prod(self.shape)} numbers: it was changed"
            )
        return columns

    def dataset(self) -> Dataset:
        """The data of the run, split as then; DataError where their content has changed."""
        settings = self.settings()
        if self.in_memory:
            raise DataError(
                f"{self.path} was fitted in Python, on data that no file holds: name the DATA to "
                f"work on, as in aevb score {self.path} DATA"
            )
        binarize = Binarization(settings.binarize or "none")
        try:
            data = split(source_of(settings), binarize, limit=settings.data_limit)
        except OSError as error:
            raise DataError(
                f"the data of {self.path}, {name_shortly(settings.data)}, cannot be read "
                f"({reason(error)})"
            ) from error
        if data.source.fingerprint != self.data_facts().get("fingerprint"):
            raise DataError(
                f"{settings.data} has changed since {self.path} was trained on it: test rows of "
                "then may not be test rows now; put the former file back, or train anew"
            )
        return data

    def rows(self, name_or_path: str | None, *, allow_nan: bool = False) -> Rows:
        """Rows to work on, treated as the run's: a set's or file's, all of them, or the test rows.

        Errors: DataError for columns or a width that are not the model's.
        """
        if name_or_path is None:
            return self.dataset().test
        settings, facts = self.settings(), self.data_facts()
        source = source_of(settings, name_or_path, like=self.columns, allow_nan=allow_nan)
        if math.prod(source.shape) != math.prod(self.shape):
            raise DataError(
                f"{name_or_path} has rows of {math.prod(source.shape)} numbers, the model is of "
                f"rows of {math.prod(self.shape)}"
            )
        if source.missing and not (allow_nan or facts.get("missing")):
            raise DataError(
                f"{name_or_path} has {source.missing} missing cells, and the model was fitted on "
                "rows without any: fill them with aevb impute first"
            )
        source = source.at_scale(facts.get("scale", 1.0))
        return all_rows(source, Binarization(settings.binarize or "none"))

    def load_for(self, rows: Rows, refine: int | None = None) -> tuple[Model, Posterior]:
        """The model and a posterior for these rows: the encoder, or new free parameters, fitted.

        `refine` steps for each datum follow on what the encoder says, in place of those that the
        posterior of a semi-amortized run takes.
        """
        model, posterior = self.load()
        if refine is not None:
            return model, refined(posterior, model, refine)
        return model, posterior_for(model, posterior, rows)

    def require(self) -> "RunFolder":
        """This folder, or a ModelFileError where no run was begun."""
        if not self.exists:
            what = "is a file" if self.path.exists() else "does not exist"
            if (self.path / "index.json").exists():
                raise ModelFileError(
                    f"{self.path} is a classifier, of a run for each part: aevb predict takes it"
                )
            if self.path.is_dir():
                what = f"holds no run, since it has no {weights.CONFIG}"
            raise ModelFileError(f"{self.path} {what}: name a folder that `aevb train` wrote")
        return self


_TEXTS = ("method", "estimand", "direction", "unit", "data", "binarize")
_COUNTS = ("samples", "n")
_NUMBERS = ("mean", "standard_error", "monte_carlo_error")


def _check_certificate(found: Any, path: Path) -> None:
    """ModelFileError unless a certificate has the parts that are cited, each of its type."""
    try:
        fits = (
            all(isinstance(found[name], str) for name in _TEXTS)
            and all(type(found[name]) is int for name in _COUNTS)
            and all(found[name] is None or type(found[name]) is float for name in _NUMBERS)
        )
    except (KeyError, TypeError):
        fits = False
    if not fits:
        raise ModelFileError(
            f"{path} is no report of an evaluation: remove it, or evaluate the run again"
        )
