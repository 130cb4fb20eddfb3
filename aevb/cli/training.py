"""The command that makes a model: `train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from aevb.cli.root import (
    AllowNan,
    Binarize,
    Device,
    Json,
    Limit,
    Quiet,
    Resize,
    Seed,
    Threads,
    Verbose,
    app,
    print_json,
    size_of,
)
from aevb.errors import UsageError

if TYPE_CHECKING:
    from aevb.storage import RunFolder


@app.command()
def train(
    ctx: typer.Context,
    data: Annotated[str, typer.Argument(help="A data set's name, or a file.")] = "digits",
    latent_dim: Annotated[int, typer.Option(help="Latent dimensions.")] = 20,
    latent_classes: Annotated[
        int | None,
        typer.Option(help="Of each latent, with --posterior categorical [default: 10]."),
    ] = None,
    hidden: Annotated[
        str | None,
        typer.Option(help="Widths, encoder first, like 200,200 [default: 500; channels 32,64]."),
    ] = None,
    activation: Annotated[
        str | None,
        typer.Option(
            help="tanh, relu, elu, gelu, silu, softplus, leaky-relu, sigmoid "
            "[default: relu; the paper has tanh]."
        ),
    ] = None,
    network: Annotated[
        Literal["mlp", "convolutional", "linear"], typer.Option(help="Kind of networks.")
    ] = "mlp",
    likelihood: Annotated[
        str,
        typer.Option(
            help="auto, bernoulli, continuous-bernoulli, discretized-logistic, "
            "discretized-logistic-mixture, gaussian, full-gaussian, laplace, logistic, student-t, "
            "log-normal, gamma, categorical, ordinal, poisson, negative-binomial, "
            "zero-inflated-negative-binomial, or mixed: a family for each kind of column."
        ),
    ] = "auto",
    classes: Annotated[
        int | None,
        typer.Option(help="Classes, grades or levels of grey [default: of the data]."),
    ] = None,
    posterior: Annotated[
        str,
        typer.Option(
            help="mean-field, low-rank, full-covariance, mixture, planar, radial, householder, "
            "sylvester, real-nvp, iaf, ladder, von-mises-fisher, dirichlet, or a family such as "
            "laplace or gamma; bernoulli and categorical for discrete codes; per-datum:FAMILY and "
            "global:FAMILY have free parameters; auto: mean-field, or per-datum where the "
            "algorithm has no recognition model."
        ),
    ] = "auto",
    prior: Annotated[
        str,
        typer.Option(
            help="standard-normal, learnt-normal, mixture, vamp, flow, autoregressive, or a family "
            "such as gamma; of discrete codes bernoulli, categorical, learnt-bernoulli, "
            "learnt-categorical; auto: the usual one where the posterior's draws lie."
        ),
    ] = "auto",
    layers: Annotated[
        int, typer.Option(help="Layers of codes, each half as wide as the one before.")
    ] = 1,
    objective: Annotated[
        str,
        typer.Option(help="elbo-a, elbo-b, iwae; auto: b where KL(q || p) has a closed form."),
    ] = "auto",
    gradient: Annotated[
        str,
        typer.Option(
            help="reparameterized, score-function, path-derivative, doubly-reparameterized, vimco, "
            "gumbel-softmax, straight-through, enumeration; auto: the first where draws have one."
        ),
    ] = "auto",
    baseline: Annotated[
        str,
        typer.Option(
            help="Of score-function: none, running-mean, learnt, leave-one-out; auto: the last, "
            "where there are 2 samples."
        ),
    ] = "auto",
    temperature: Annotated[
        float | None, typer.Option(help="Of gumbel-softmax [default: 0.5].")
    ] = None,
    samples: Annotated[int, typer.Option(help="L, posterior samples per datum and step.")] = 1,
    algorithm: Annotated[
        str,
        typer.Option(
            help="aevb, semi-amortized, full-bayes, wake-sleep, reweighted-wake-sleep, "
            "monte-carlo-em, mean-field, em."
        ),
    ] = "aevb",
    components: Annotated[
        int | None,
        typer.Option(help="Train a mixture of so many Gaussians, by em, mean-field or aevb."),
    ] = None,
    covariance: Annotated[
        Literal["full", "diagonal", "spherical"] | None,
        typer.Option(
            help="Of the components [default: full]; of em without them diagonal is factor "
            "analysis, the default, and spherical probabilistic PCA."
        ),
    ] = None,
    weight_draws: Annotated[
        int, typer.Option(help="Of full-bayes: draws of the weights that the model averages over.")
    ] = 10,
    refine: Annotated[
        int | None,
        typer.Option(help="Of semi-amortized: steps for each datum [default: 10]."),
    ] = None,
    beta: Annotated[float, typer.Option(help="Weight of the divergence in the objective.")] = 1.0,
    warmup_steps: Annotated[int, typer.Option(help="Steps until beta has its full value.")] = 0,
    free_bits: Annotated[float, typer.Option(help="Nats free of charge per dimension.")] = 0.0,
    weight_prior: Annotated[
        Literal["none", "normal"], typer.Option(help="normal: MAP with N(0, I) on the weights.")
    ] = "none",
    optimizer: Annotated[str, typer.Option(help="adam, adagrad, sgd.")] = "adam",
    lr: Annotated[
        float | None, typer.Option(help="Learning rate [default: the optimizer's].")
    ] = None,
    lr_schedule: Annotated[str, typer.Option(help="constant, steps, cosine, linear.")] = "cosine",
    clip: Annotated[float | None, typer.Option(help="Bound on the gradient's norm.")] = None,
    batch_size: Annotated[int, typer.Option(help="M, data per step.")] = 100,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the data [default: 100 to 400 by its size].")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without a better bound.")
    ] = None,
    binarize: Annotated[
        Binarize | None, typer.Option(help="Of grey levels [default: the data set's].")
    ] = None,
    allow_nan: AllowNan = False,
    resize: Resize = None,
    data_limit: Limit = None,
    seed: Seed = 0,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float64"],
        typer.Option(help="Of the matrix products [auto: bfloat16 where it is faster]."),
    ] = "auto",
    threads: Threads = None,
    device: Device = "auto",
    step: Annotated[
        Literal["auto", "compiled", "eager"], typer.Option(help="How the step runs.")
    ] = "auto",
    out: Annotated[
        Path | None, typer.Option(help="Run folder [default: runs/DATA, numbered].")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run stopped.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a run that is there.")] = False,
    json_: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write RUN/tensorboard for TensorBoard.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Then evaluate, draw all, write RUN/report.html.")
    ] = False,
) -> None:
    """Train a model and write a run folder."""
    from aevb.following import require_tensorboard
    from aevb.progress import Verbosity, bar, follow
    from aevb.storage import RunFolder
    from aevb.workflow import fit, settle

    how = ("out", "resume", "force", "json_", "quiet", "verbose", "tensorboard", "report")
    options = {k: v for k, v in ctx.params.items() if k not in how}
    options["hidden"] = None if hidden is None else _widths(hidden)
    options["resize"] = size_of(resize)
    explicit = {k for k in options if str(ctx.get_parameter_source(k)).endswith("COMMANDLINE")}
    if resume and out is None:
        raise UsageError("--resume needs the folder of the run: name it with --out")
    if resume and out is not None and not out.exists() and "data" not in explicit:
        raise UsageError(f"{out} does not exist: there is no run to resume, check the path")
    if quiet and verbose:
        raise UsageError("--quiet and --verbose exclude each other: choose one")
    if tensorboard:
        require_tensorboard()  # before --force removes anything
    folder = RunFolder(out) if out is not None else _free_folder(data)
    verbosity = Verbosity.VERBOSE if verbose else Verbosity.NORMAL
    with folder.locked():
        settings, resuming = settle(folder, options, explicit, resume=resume, force=force)
        with follow(Verbosity.QUIET if quiet or json_ else verbosity) as callbacks:
            result = fit(
                folder, settings, resume=resuming, callbacks=callbacks, tensorboard=tensorboard
            )
    if report:
        from aevb.workflow import write_report

        with bar("evaluating", quiet=quiet or json_) as progress:
            result["report"] = str(write_report(folder, progress=progress))
    if json_:
        print_json(result)
    else:
        last, best = result["train"], result["validation"] or {}
        name = "objective" if last["elbo"] is None else "elbo"
        said = {"objective": "mean log p(x, z)", "elbo": "training bound"}[name]
        print(
            f"{folder.path}: {result['epochs']} epochs, {said} {last[name]:.2f} nats"
            + (f", validation bound {best['elbo']:.2f} nats" if best else "")
        )
        print(
            result.get("report")
            or f"next: aevb evaluate {folder.path}   aevb plot {folder.path} all   "
            f"aevb report {folder.path}"
        )


def _widths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UsageError(
            f"--hidden takes whole numbers with commas between, like 500 or 200,200; found {text!r}"
        ) from None


def _free_folder(data: str) -> "RunFolder":
    """runs/NAME, or runs/NAME-2, runs/NAME-3, ... where that is taken."""
    from aevb.storage import RunFolder

    name, number = Path(data).stem, 1
    folder = RunFolder(Path("runs") / name)
    while folder.path.exists():
        number += 1
        folder = RunFolder(Path("runs") / f"{name}-{number}")
    return folder
