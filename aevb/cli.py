"""The command line: `aevb train`, then `evaluate`, `sample`, `reconstruct`, `encode`, `plot`, ....

Results go to stdout and progress to stderr; `--json` gives one JSON object, for errors too. Exit
codes: 0 done, 1 the run failed, 2 usage, 3 bad data, 4 bad model file, 130 and 143 interrupted.
Everything heavy is imported inside the commands, so that `--help` answers at once.
"""

import json
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from aevb import __version__
from aevb.errors import AevbError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from aevb.data import Rows
    from aevb.storage import RunFolder

app = typer.Typer(
    name="aevb",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Every command takes --json, and --debug for a traceback on errors.",
)


@app.callback()
def version(
    show: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True)
    ] = False,
) -> None:
    """Fit variational auto-encoders, and know how good they are."""
    if show:
        print(f"aevb {__version__}")
        raise typer.Exit


Run = Annotated[Path, typer.Argument(help="A run folder that `aevb train` wrote.")]
RowsOf = Annotated[
    str | None,
    typer.Argument(metavar="[DATA]", help="A data set's name or a file [default: test rows]."),
]
Out = Annotated[Path | None, typer.Option(help="Where to write: .npy, .csv or .png.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Nothing on stderr but errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="A line for every epoch, and why.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads [default: torch's choice].")]
Limit = Annotated[int | None, typer.Option(min=1, help="A random subset of so many rows.")]
Binarize = Literal["none", "threshold", "once", "epoch"]
Kind = Literal["all", "curve", "reconstructions", "samples", "manifold", "latent"]


@app.command()
def train(
    ctx: typer.Context,
    data: Annotated[str, typer.Argument(help="A data set's name, or a file.")] = "digits",
    latent_dim: Annotated[int, typer.Option(help="Latent dimensions.")] = 20,
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
        Literal["mlp", "convolutional"], typer.Option(help="Kind of networks.")
    ] = "mlp",
    likelihood: Annotated[
        str,
        typer.Option(
            help="auto, bernoulli, continuous-bernoulli, gaussian, full-gaussian, categorical, "
            "poisson, negative-binomial."
        ),
    ] = "auto",
    classes: Annotated[
        int | None, typer.Option(help="Classes of a categorical [default: largest value + 1].")
    ] = None,
    posterior: Annotated[
        str, typer.Option(help="mean-field, full-covariance, per-datum.")
    ] = "mean-field",
    objective: Annotated[str, typer.Option(help="elbo-a, elbo-b, iwae.")] = "elbo-b",
    samples: Annotated[int, typer.Option(help="L, posterior samples per datum and step.")] = 1,
    algorithm: Annotated[str, typer.Option(help="aevb.")] = "aevb",
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
    data_limit: Limit = None,
    seed: Seed = 0,
    precision: Annotated[Literal["float32", "float64"], typer.Option()] = "float32",
    threads: Threads = None,
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
) -> None:
    """Train a model and write a run folder."""
    from aevb.following import require_tensorboard
    from aevb.progress import Verbosity, follow
    from aevb.storage import RunFolder
    from aevb.workflow import fit, settle

    not_settings = ("out", "resume", "force", "json_", "quiet", "verbose", "tensorboard")
    options = {k: v for k, v in ctx.params.items() if k not in not_settings}
    options["hidden"] = None if hidden is None else _widths(hidden)
    explicit = {k for k in options if str(ctx.get_parameter_source(k)).endswith("COMMANDLINE")}
    if resume and out is None:
        raise UsageError("--resume needs the folder of the run: name it with --out")
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
    if json_:
        _print_json(result)
    else:
        last, best = result["train"], result["validation"] or {}
        print(
            f"{folder.path}: {result['epochs']} epochs, training bound {last['elbo']:.2f} nats"
            + (f", validation bound {best['elbo']:.2f} nats" if best else "")
        )
        print(f"next: aevb evaluate {folder.path}   aevb plot {folder.path} all")


@app.command()
def evaluate(
    run: Run,
    method: Annotated[
        Literal["importance", "elbo"], typer.Option(help="Estimator.")
    ] = "importance",
    samples: Annotated[int, typer.Option(min=1, help="K, posterior samples per datum.")] = 1000,
    split: Annotated[Literal["test", "validation", "train"], typer.Option()] = "test",
    data_limit: Limit = None,
    seed: Seed = 0,
    threads: Threads = None,
    values: Annotated[
        Path | None, typer.Option(help="Write the value of each datum here: .npy or .csv.")
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Estimate log p(x) on held-out data, with its certificate."""
    from aevb.progress import bar
    from aevb.workflow import evaluation_table, score

    if values is not None and values.suffix not in (".npy", ".csv"):
        raise UsageError(f"--values {values} must end in .npy or .csv")
    folder = _open(run, threads)
    with bar("evaluating", quiet=quiet or json_) as progress:
        report, per_datum = score(
            folder,
            method=method,
            samples=samples,
            split=split,
            limit=data_limit,
            seed=seed,
            progress=progress,
        )
    if values is not None:
        _write_array(values, per_datum[:, None])
        report["values"] = str(values)
    if json_:
        _print_json(report)
    else:
        print(evaluation_table(report))


@app.command()
def sample(
    run: Run,
    n: Annotated[int, typer.Option("--n", min=1, help="How many.")] = 64,
    draw: Annotated[bool, typer.Option("--draw", help="Draws of p(x | z), not its mean.")] = False,
    out: Out = None,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Sample the model: z from the prior, then the mean of p(x | z)."""
    from aevb import codes

    folder = _open(run)
    model, _ = folder.load()
    _deliver(folder, codes.sample(model, n, seed=seed, draw=draw), out, "samples.npy", json_)


@app.command()
def reconstruct(
    run: Run, data: RowsOf = None, out: Out = None, data_limit: Limit = None, json_: Json = False
) -> None:
    """Encode and decode rows: the mean of p(x | z) at the posterior mean."""
    from aevb import codes

    folder = _open(run)
    rows = folder.rows(data).limit(data_limit)
    model, posterior = folder.load_for(rows)
    result = codes.reconstruct(model, posterior, rows)
    _deliver(folder, result, out, "reconstructions.npy", json_, beside=rows)


@app.command()
def encode(
    run: Run, data: RowsOf = None, out: Out = None, data_limit: Limit = None, json_: Json = False
) -> None:
    """Encode rows: the posterior mean of each."""
    from aevb import codes

    folder = _open(run)
    rows = folder.rows(data).limit(data_limit)
    model, posterior = folder.load_for(rows)
    _deliver(folder, codes.encode(model, posterior, rows), out, "codes.npy", json_, code=True)


@app.command()
def decode(
    run: Run,
    codes_file: Annotated[str, typer.Argument(metavar="CODES", help="Codes: .npy or .csv.")],
    out: Out = None,
    json_: Json = False,
) -> None:
    """Decode codes: the mean of p(x | z)."""
    from aevb import codes, data

    folder = _open(run)
    model, _ = folder.load()
    source = data.open_source(codes_file)
    z = source.values.reshape(len(source.values), -1).astype("float64")
    _deliver(folder, codes.decode(model, z), out, "decoded.npy", json_)


@app.command()
def interpolate(
    run: Run,
    data: RowsOf = None,
    start: Annotated[int, typer.Option("--from", min=1, help="Row to start at, from 1.")] = 1,
    stop: Annotated[int, typer.Option("--to", min=1, help="Row to end at.")] = 2,
    steps: Annotated[int, typer.Option(min=2, help="Steps, both ends included.")] = 10,
    out: Out = None,
    json_: Json = False,
) -> None:
    """Decode the straight line between the codes of two rows."""
    import numpy as np

    from aevb import codes

    folder = _open(run)
    rows = folder.rows(data)
    if max(start, stop) > len(rows):
        raise UsageError(f"row {max(start, stop)} was asked for, the data have {len(rows)} rows")
    ends = rows.pick(np.array([start - 1, stop - 1]))
    model, posterior = folder.load_for(ends)
    first, last = codes.encode(model, posterior, ends)
    line = codes.decode(model, codes.interpolate(first, last, steps))
    _deliver(folder, line, out, "interpolation.npy", json_)


@app.command()
def plot(
    run: Run,
    kind: Annotated[Kind, typer.Argument(help="Which picture.")] = "all",
    out: Annotated[
        Path | None, typer.Option(help="A .png, or with `all` a folder [default: RUN/figures].")
    ] = None,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Draw pictures of a run as PNG files."""
    from aevb.workflow import picture, pictures_of

    folder = _open(run)
    if kind == "all":
        where = out or folder.figures
        targets = {name: where / f"{name}.png" for name in pictures_of(folder)}
    else:
        targets = {kind: out or folder.figures / f"{kind}.png"}
    written = [picture(folder, name, target, seed=seed) for name, target in targets.items()]
    if json_:
        _print_json({"figures": [str(path) for path in written]})
    else:
        print("\n".join(str(path) for path in written))


@app.command()
def data(
    name: Annotated[str | None, typer.Argument(help="A data set's name, or a file.")] = None,
    json_: Json = False,
) -> None:
    """List the data sets, or fetch and describe one."""
    from aevb.workflow import data_table, describe_data

    if name is not None:
        facts = describe_data(name)
        if json_:
            _print_json(facts)
        else:
            print("\n".join(f"{key:<12} {value}" for key, value in facts.items()))
        return
    rows = data_table()
    if json_:
        _print_json({"data": rows})
    else:
        for row in rows:
            print(
                f"{row['name']:<16} {row['rows']:>6} x {row['shape']:<12} {row['likelihood']:<21}"
                f"{row['where']}"
            )


# -- shared by the commands -----------------------------------------------------------------------


def _open(run: Path, threads: int | None = None) -> "RunFolder":
    import torch

    from aevb.storage import RunFolder

    if threads is not None:
        torch.set_num_threads(threads)
    return RunFolder(run).require()


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


def _deliver(
    folder: "RunFolder",
    array: "NDArray[np.float64]",
    out: Path | None,
    default: str,
    json_: bool,
    *,
    beside: "Rows | None" = None,
    code: bool = False,
) -> None:
    """Write a result where it was asked for, as numbers or as a picture, and say where."""
    target = folder.path / default if out is None else out
    if target.suffix == ".png":
        from aevb.workflow import draw_rows

        if code:
            raise UsageError(
                "codes are numbers: write them to .npy or .csv, or use aevb plot latent"
            )
        draw_rows(folder, array, target, beside)
    else:
        _write_array(target, array)
    if json_:
        _print_json({"out": str(target), "shape": list(array.shape)})
    else:
        print(f"{target}: {array.shape[0]} x {array.shape[1]}")


def _write_array(target: Path, array: "NDArray[np.float64]") -> None:
    """Write .npy or .csv in one step."""
    import io

    import numpy as np

    buffer = io.BytesIO()
    if target.suffix == ".npy":
        np.save(buffer, array)
    elif target.suffix == ".csv":
        np.savetxt(buffer, array, delimiter=",", fmt="%.9g")
    else:
        raise UsageError(f"{target} must end in .npy, .csv or, for pictures, .png")
    from aevb.files import replace_atomically

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_atomically(target, buffer.getvalue())
    except OSError as error:
        raise UsageError(f"{target} cannot be written ({error.strerror})") from error


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, allow_nan=False))


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line; every error becomes one sentence and an exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    given = [word for word in given if word != "--debug"]
    as_json = "--json" in given
    given = given or ["--help"]
    try:
        code = app(args=given, prog_name="aevb", standalone_mode=False)
        if code == 130:  # typer's answer to Ctrl-C, which says nothing
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except Exception as error:
        if debug:
            traceback.print_exc()
        sys.exit(_fail(error, as_json))
    except KeyboardInterrupt:
        sys.exit(_fail(UsageError("interrupted"), as_json, 130))


def _fail(error: Exception, as_json: bool, code: int | None = None) -> int:
    """Say the error in one sentence, on stderr or as JSON, and give its exit code."""
    if isinstance(error, AevbError):
        sentence, exit_code = str(error), error.exit_code
    elif isinstance(error, typer.TyperException):
        sentence, exit_code = error.format_message(), 2
    elif isinstance(error, BrokenPipeError):
        return 1
    else:
        said = str(error).strip().splitlines()
        sentence = (
            f"{type(error).__name__}: {said[0] if said else 'no message'} (--debug shows where)"
        )
        exit_code = 1
    exit_code = exit_code if code is None else code
    if as_json:
        _print_json({"error": sentence, "exit_code": exit_code})
    else:
        print(f"aevb: {sentence}", file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    main()
