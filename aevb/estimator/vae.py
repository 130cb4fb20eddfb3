"""`VAE`: a variational auto-encoder that behaves like any transformer of scikit-learn."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted

from aevb import codes, imputation
from aevb.algorithms import Learner, State
from aevb.data import Binarization, Dataset, Rows, Source, all_rows
from aevb.data.arrays import of_tensor
from aevb.data.frames import is_frame
from aevb.devices import tensor_of
from aevb.errors import DataError, TrainingError, UsageError
from aevb.estimator.display import html_of
from aevb.estimator.parameters import (
    PARAMETERS,
    Randomness,
    TakesSettings,
    as_parameter,
    plain,
    seed_of,
    spelled,
)
from aevb.estimator.reading import first_hole, held_out, keep_columns, read
from aevb.evaluation import first_batch, posterior_for, score_rows
from aevb.model import Model
from aevb.plan import decided, plan_of, sized, work_of
from aevb.posterior import Posterior
from aevb.randomness import Stream, generator, seed_torch, torch_kept
from aevb.settings import Settings, check_settings
from aevb.storage import (
    RunFolder,
    build,
    check_domain,
    facts_of,
    learner,
    passes_of,
    settle_latents,
)
from aevb.training import NON_FINITE_ADVICE, train

Array = NDArray[np.float64]


class VAE(TakesSettings, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A variational auto-encoder: a deep latent-variable model, fitted by Auto-Encoding VB.

        maximize  sum_n E_q[log p(x_n given z)] - KL(q(z given x_n) || p(z))

    Parameters: `latent_dim` D; `hidden` widths of the encoder, which the decoder has backwards
    (None: 500, or channels 32 and 64 where `network` is "convolutional", none where "linear");
    `likelihood` ("auto" looks at the data: bernoulli, continuous-bernoulli, gaussian,
    negative-binomial, categorical or, column by column, mixed; others by name); `posterior` (see
    the page "Which posterior, which prior"; "auto" is mean-field, or what suits the `algorithm`);
    `epochs` (None: 100 to 400 by the number of rows); `allow_nan` takes NaN for a cell that was not
    observed, which is integrated out; `random_state` (None is 0; a RandomState gives a new one at
    each fit). The other settings of a run, but for its data and how its steps are computed, have
    the names and meanings of `aevb.settings.Settings`: `activation`, `network`, `latent_classes`,
    `classes`, `prior`, `layers`, `objective`, `gradient`, `baseline`, `temperature`, `samples`,
    `algorithm`, `components`, `covariance`, `weight_draws`, `refine`, `beta`, `warmup_steps`,
    `free_bits`, `weight_prior`, `optimizer`, `lr`, `lr_schedule`, `clip`, `batch_size`, `patience`
    (of epochs without a better bound on `X_val`), `device`.
    Attributes: `model_`, `posterior_` (torch modules in double precision), `history_` (by epoch),
    `likelihood_`, `reason_`, `columns_`, `settings_`, `n_features_in_`, `feature_names_in_`.
    Shapes: X (N, X), an array, a DataFrame, which may have columns of text, or a `Source` that
    `aevb.data.open_source` read; codes (N, D).
    Units: nats per row, larger is better; data in the units of X, densities in those of `model_`.
    Errors: ValueError, one sentence, with row and column (1-based) where a cell is at fault.
    Source: Kingma & Welling (2013), "Auto-Encoding Variational Bayes".
    Example:
        >>> from sklearn.datasets import load_digits
        >>> X = load_digits().data[:200] / 16
        >>> vae = VAE(latent_dim=2, hidden=(32,), epochs=5).fit(X)
        >>> vae.transform(X).shape, vae.sample(3).shape, vae.score_samples(X).shape
        ((200, 2), (3, 64), (200,))
    """

    def __init__(
        self,
        latent_dim: int = 2,
        *,
        hidden: Sequence[int] | None = None,
        likelihood: str = "auto",
        posterior: str = "auto",
        epochs: int | None = None,
        allow_nan: bool = False,
        random_state: Randomness = None,
        **settings: Any,
    ) -> None:
        self.latent_dim = latent_dim
        self.hidden = hidden
        self.likelihood = likelihood
        self.posterior = posterior
        self.epochs = epochs
        self.allow_nan = allow_nan
        self.random_state = random_state
        self._take(settings)

    history_: list[dict[str, Any]]
    _memory: tuple[int, dict[str, tuple[torch.Tensor, ...]]] | None

    # -- learning ---------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None, *, X_val: Any = None) -> Self:
        """Fit model and posterior to X; with `X_val`, keep the epoch with its best bound."""
        return self._fit(self._source(X, reset=True), X_val=X_val)

    def _fit(
        self, source: Source, only: NDArray[np.intp] | None = None, *, X_val: Any = None
    ) -> Self:
        """Fit to a source, or to some of its rows: units and starting values are those of all."""
        data = self._begin(source, X_val, "float32", only)
        try:
            self._train(data)
        except BaseException:  # what was not trained to its end is not fitted
            self._forget()
            raise
        return self

    def _train(self, data: Dataset) -> None:
        settings, modules = self.settings_, (self.model_, self.posterior_)
        with spelled():
            plan, passes = plan_of(settings), passes_of(settings)
            work = work_of(*modules, data.train, plan, settings.device, passes)
            settings = decided(replace(settings, precision="auto"), work)
            for module in modules:
                module.to(settings.device)
            algorithm = self._learner(settings, data.train)
            self._facts["used"] |= {"precision": settings.precision, "device": settings.device}
            self.history_ = train(algorithm, data, plan)
        # In single precision a row's code would depend, by 1e-7, on the rows beside it.
        for module in modules:
            module.to("cpu", torch.float64)

    def _forget(self) -> None:
        """Count as not fitted."""
        for name in ("posterior_", "offset_"):
            self.__dict__.pop(name, None)

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """One pass over X in minibatches, from where the last one ended: learning online.

        The first call settles what depends on data: columns, likelihood, units, starting values.
        The rate is constant: `lr_schedule`, `epochs` and `patience` are of `fit`.
        """
        begun = hasattr(self, "posterior_")
        if begun:
            rows = self._rows(X)
            if self.model_.family is not None:  # before any step, and by the rows of X
                self.model_.family.check(rows.all())
        else:
            rows = self._begin(self._source(X, reset=True), None, "float64").train
        try:
            with spelled():
                self._pass_over(rows)
        except BaseException as error:
            # What saw no step is not fitted, nor is what has weights that are no numbers.
            if not begun or isinstance(error, TrainingError):
                self._forget()
            raise
        return self

    def _pass_over(self, rows: Rows) -> None:
        if self.posterior_.per_row:
            raise UsageError("partial_fit needs an encoder: choose the posterior mean-field")
        settings, algorithm, state = self.settings_, *self._go_on(rows)
        if algorithm.needs_all:
            name = type(algorithm).__name__
            raise UsageError(f"{name} sees all rows in each step: call fit, not partial_fit")
        plan, noise_law = plan_of(settings), algorithm.noise(first_batch(self.model_, rows))
        order = generator(settings.seed, Stream.ORDER, len(self.history_)).permutation(len(rows))
        device = tensor_of(self.model_).device
        t = self.history_[-1].get("t", 0) if self.history_ else 0  # the steps of `fit` among them
        for start in range(0, len(rows), settings.batch_size):
            positions = order[start : start + settings.batch_size]
            source = generator(settings.seed, Stream.NOISE, state.t)
            noise = noise_law.draw(source, (settings.samples, len(positions)), torch.float64)
            word = generator(settings.seed, Stream.LAYERS, state.t).integers(2**63)
            t += 1
            with torch_kept(device):  # for what draws for itself: the counts of a dream, say
                seed_torch(int(word), device)
                algorithm.step(state, rows.take(positions), noise, temper=plan.temper(t))
        if failure := state.failure():
            what, bad = failure
            raise TrainingError(f"{what} not finite at step {bad}: {NON_FINITE_ADVICE}")
        self._memory = (state.t, state.memory)
        record = {"epoch": len(self.history_) + 1, "t": t, "train": state.averages()}
        self.history_ = [*self.history_, record | {"validation": None}]

    def _begin(
        self, source: Source, X_val: Any, precision: str, only: NDArray[np.intp] | None = None
    ) -> Dataset:
        """Settle what depends on the data, build model and posterior; the rows to learn from."""
        seed = seed_of(self.random_state)
        everything = all_rows(source, Binarization.NONE, seed)
        rows = everything if only is None else everything.pick(only)
        given = {name: plain(getattr(self, name)) for name in PARAMETERS}
        given |= {"data": source.name, "seed": seed, "binarize": "none", "precision": precision}
        settings = check_settings(given, spell=as_parameter)
        with spelled():
            settings = sized(settle_latents(settings), len(rows))
        likelihood = source.likelihood if settings.likelihood == "auto" else settings.likelihood
        self.settings_ = replace(settings, likelihood=likelihood)
        nothing = everything.pick(np.arange(0))
        self.likelihood_, self.reason_, self.columns_ = likelihood, source.reason, source.columns
        self._facts = facts_of(self.settings_, Dataset(source, rows, nothing, nothing))
        with held_out():
            unseen = nothing if X_val is None else self._read(X_val)
        whole = Dataset(source, everything, unseen, nothing)
        with spelled():
            model, posterior = self._built(whole)
        check_domain(model, whole)
        self.model_, self.posterior_ = model, posterior
        self.history_, self._memory = [], None
        return replace(whole, train=rows)

    def _built(self, data: Dataset) -> tuple[Model, Posterior]:
        """Model and posterior for the data, as the settings say."""
        return build(self.settings_, data)

    def _learner(self, settings: Settings, rows: Rows) -> Learner:
        return learner(settings, self.model_, self.posterior_, len(rows))

    def _go_on(self, rows: Rows) -> tuple[Learner, State]:
        """The learner as the last pass left it; a pickle keeps its memory, not its functions."""
        algorithm = self._learner(self.settings_, rows)
        state = algorithm.init()
        if self._memory is not None:
            state.t, state.memory = self._memory
        return algorithm, state

    # -- data -------------------------------------------------------------------------------------

    def _source(self, X: Any, *, reset: bool, allow_nan: bool = False) -> Source:
        """X as a source, with the checks of scikit-learn and ours; `reset` begins a fit."""
        if reset:
            self._forget()
        like = None if reset else self.columns_
        source = read(self, X, like, reset=reset, holes=self.allow_nan or not reset)
        if source.missing and not (reset or allow_nan or self._facts["data"]["missing"]):
            raise DataError(
                f"{first_hole(source)}, and the model was fitted on rows without NaN: fill them by "
                "impute first"
            )
        return source

    def _rows(self, X: Any, *, allow_nan: bool = False) -> Rows:
        """Rows of X for the fitted model."""
        check_is_fitted(self)
        return self._read(X, allow_nan)

    def _read(self, X: Any, allow_nan: bool = False) -> Rows:
        source = self._source(X, reset=False, allow_nan=allow_nan)
        scale: float = self._facts["data"]["scale"]
        source = source.at_scale(scale, whole=True) if scale != 1.0 else replace(source, scale=1.0)
        # Only a run of the command line has grey levels binarized; it reads new rows so.
        return all_rows(source, Binarization(self.settings_.binarize or "none"))

    def _pair_for(self, rows: Rows) -> tuple[Model, Posterior]:
        """The model, and a posterior of these rows."""
        return self.model_, posterior_for(self.model_, self.posterior_, rows)

    def _in_units_of_x(self, values: Array) -> Array:
        scale: float = self._facts["data"]["scale"]
        return values if scale == 1.0 else values / scale

    def _codes(self, Z: Any) -> Array:
        check_is_fitted(self)
        if np.ma.is_masked(Z):
            raise UsageError("Z must hold every code whole, found masked cells")
        Z = check_array(of_tensor(Z), dtype=np.float64, input_name="Z")
        if Z.shape[1] != self._n_features_out:
            raise UsageError(
                f"Z must have {self._n_features_out} columns, one for each latent dimension, found "
                f"{Z.shape[1]}"
            )
        checked: Array = Z
        return checked

    @property
    def _n_features_out(self) -> int:
        return int(self.model_.prior().event_shape[0])

    # -- codes ------------------------------------------------------------------------------------

    def transform(self, X: Any) -> Array:
        """The posterior mean E_q[z given x] of each row, (N, D)."""
        return self._means(X)

    def _means(self, X: Any) -> Array:
        # The codes as an array, where `set_output` makes a frame of what `transform` gives.
        rows = self._rows(X)
        return codes.encode(*self._pair_for(rows), rows)

    def _code(self, row: Any) -> Array:
        """The code (D,) of one row: of an array, of pandas, or a frame of one row."""
        if hasattr(row, "to_frame") and hasattr(row, "index"):
            row = row.to_frame().T  # names of columns and all
        if not (is_frame(row) or isinstance(row, Source)):
            row = np.reshape(of_tensor(row), (1, -1))
        code: Array
        code, *more = self._means(row)
        if more:
            raise UsageError(f"expected one row, found {1 + len(more)}: give each end alone")
        return code

    def encode(self, X: Any, *, samples: int, random_state: Randomness = None) -> Array:
        """Draws of z from q(z given x), (samples, N, D)."""
        rows = self._rows(X)
        seed = self._seed(random_state)
        return codes.encode_samples(*self._pair_for(rows), rows, samples=samples, seed=seed)

    def inverse_transform(self, Z: Any) -> Array:
        """The mean of p(x given z) for codes (N, D), (N, X)."""
        Z = self._codes(Z)
        return self._in_units_of_x(codes.decode(self.model_, Z))

    def reconstruct(self, X: Any) -> Array:
        """The mean of p(x given z) at the posterior mean of each row, (N, X)."""
        rows = self._rows(X)
        return codes.decode(self.model_, codes.encode(*self._pair_for(rows), rows)) / rows.scale

    def sample(
        self,
        n_samples: int = 1,
        *,
        mean: bool = False,
        return_latent: bool = False,
        random_state: Randomness = None,
    ) -> Array | tuple[Array, Array]:
        """Rows x from p(x given z), or its means, with z from the prior; (X) or (X, Z)."""
        check_is_fitted(self)
        seed = self._seed(random_state)
        z = codes.sample_latent(self.model_, n_samples, seed=seed)
        decoded = (
            codes.decode(self.model_, z) if mean else codes.draw_data(self.model_, z, seed=seed)
        )
        x = self._in_units_of_x(decoded)
        return (x, z) if return_latent else x

    def interpolate(
        self, start: Any, stop: Any, steps: int = 10, *, spherical: bool = False
    ) -> Array:
        """The mean of p(x given z) along the way from the code of one row to another's."""
        first, last = self._code(start), self._code(stop)
        return self.inverse_transform(codes.interpolate(first, last, steps, spherical=spherical))

    def traverse(self, dimension: int, values: Any = None, *, start: Any = None) -> Array:
        """The mean of p(x given z) along one latent dimension (0-based), the others held.

        `values` (V,) are -3 to 3 in 13 steps when left out; the others stay at 0, or at the code of
        the row `start`.
        """
        check_is_fitted(self)
        code = None if start is None else self._code(start)
        return self.inverse_transform(codes.traverse(self.model_, dimension, values, start=code))

    # -- scores -----------------------------------------------------------------------------------

    def score_samples(
        self, X: Any, *, samples: int = 100, random_state: Randomness = None
    ) -> Array:
        """log p(x) of each row in nats, a lower bound by importance sampling, (N,)."""
        rows = self._rows(X)
        seed = self._seed(random_state)
        return score_rows(*self._pair_for(rows), rows, samples, seed=seed)

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of log p(x) over the rows, in nats."""
        return float(self.score_samples(X).mean())

    # -- inference of data ------------------------------------------------------------------------

    def impute(
        self,
        X: Any,
        *,
        method: Literal["hmc", "importance"] | None = None,
        samples: int = 100,
        random_state: Randomness = None,
    ) -> Array:
        """X with its NaN cells filled by their posterior mean given the observed ones, (N, X).

        Observed cells of an array stay as they are, to the bit.
        """
        rows = self._rows(X, allow_nan=True)
        filled = imputation.impute(
            *(*self._pair_for(rows), rows),
            method=method,
            samples=samples,
            seed=self._seed(random_state),
        )
        given = rows.values.reshape(len(rows), -1).astype(np.float64)  # not rounded to 32 bits
        return np.where(np.isnan(given), filled / rows.scale, given)

    def denoise(self, X: Any, *, samples: int = 100, random_state: Randomness = None) -> Array:
        """What the model takes for the truth behind noisy rows, (N, X)."""
        rows = self._rows(X, allow_nan=True)
        seed = self._seed(random_state)
        clean = imputation.denoise(*self._pair_for(rows), rows, samples=samples, seed=seed)
        return clean / rows.scale

    # -- files ------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write a run folder, which `load` and the command line read; data, never code."""
        check_is_fitted(self)
        run = RunFolder(folder)
        if run.has_checkpoint:
            raise UsageError(f"{folder} holds a run of aevb train: name another folder")
        with run.locked():
            run.write_config(self.model_, self.posterior_, self._facts | self._own_facts())
            run.save_weights(self.model_, self.posterior_)
            run.replace_metrics(self.history_)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The estimator of a run folder: one that `save` wrote, or one of `aevb train`."""
        run = RunFolder(folder).require()
        settings = run.settings()
        estimator = cls(
            **{name: getattr(settings, name) for name in PARAMETERS}, random_state=settings.seed
        )
        # A table's empty cells needed no leave on the command line; here NaN stands for them.
        estimator.allow_nan = settings.allow_nan or bool(run.data_facts().get("missing"))
        if settings.needs_all:  # of other data there may be more
            estimator.batch_size = Settings.batch_size
        estimator._restore(run)
        return estimator

    def _own_facts(self) -> dict[str, Any]:
        """What a file says of the estimator beside settings and data."""
        return {}

    def _restore(self, run: RunFolder) -> None:
        config = run.config()
        self.settings_, self.columns_ = run.settings(), run.columns
        model, posterior = run.load()
        self.model_, self.posterior_ = model.double(), posterior.double()
        self.history_, self._memory = run.history(), None
        self.likelihood_ = self.settings_.likelihood
        self.reason_ = str(config["data"].get("likelihood_reason", ""))
        self._facts = {name: config[name] for name in ("settings", "data", "used")}
        keep_columns(self, run.shape, self.columns_)

    # -- plumbing ---------------------------------------------------------------------------------

    def _seed(self, random_state: Randomness) -> int:
        """The seed of a call: that of the fit, unless the call brings another."""
        return self.settings_.seed if random_state is None else seed_of(random_state)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "posterior_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = bool(self.allow_nan)
        return tags

    def _repr_html_(self) -> str:
        """A static page: parameters, data, the learning curve, warnings; no script."""
        return html_of(self)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self._repr_html_()}
