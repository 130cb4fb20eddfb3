"""Commands that judge a model: `evaluate`, `check`, `gradients`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from aevb.cli.options import Device, Json, Limit, Quiet, Refine, RowsOf, Run, Seed, Threads, to_file
from aevb.cli.root import app, open_run, print_json, say
from aevb.errors import UsageError

ANNEALED = ("ais", "bidirectional")
MEANT_FOR = {
    "samples": ("importance", "elbo", *ANNEALED, "hmc"),
    "temperatures": ANNEALED,
    "start": ANNEALED,
    "proposals": ("importance",),
    "precision": ("importance", "elbo"),
}
"""Options of `evaluate` that some methods know nothing of."""
Method = Annotated[
    str,
    typer.Option(
        help="One or more, with commas: importance, elbo, ais (from below); hmc (from above); "
        "bidirectional (ais from both sides, on rows of the model); exact (up to 3 dimensions)."
    ),
]
Proposals = Annotated[
    str,
    typer.Option(
        help="What importance draws from, one or more of encoder, fitted (to each datum), prior (a "
        "tenth)."
    ),
]
Values = Annotated[
    Path | None,
    to_file("Write the value of each datum here: .npy or .csv.", ".npy", ".csv"),
]
Draws = Annotated[
    int | None,
    typer.Option(
        min=1, help="Samples, or chains, for each datum [default: 1000; 16 chains of ais]."
    ),
]


@app.command(context_settings={"allow_extra_args": True})
def evaluate(
    ctx: typer.Context,
    run: Run,
    method: Method = "importance",
    samples: Draws = None,
    temperatures: Annotated[
        int, typer.Option(min=2, help="Of ais, between its start and the posterior.")
    ] = 100,
    start: Annotated[
        Literal["encoder", "prior"], typer.Option(help="Where the chains of ais begin.")
    ] = "encoder",
    proposals: Proposals = "encoder",
    refine: Refine = None,
    split: Annotated[
        Literal["test", "validation", "train"], typer.Option(help="Which rows of the run's data.")
    ] = "test",
    data_limit: Limit = None,
    seed: Seed = 0,
    precision: Annotated[
        Literal["float32", "bfloat16"],
        typer.Option(help="Of importance's and elbo's products; bfloat16 is for a quick look."),
    ] = "float32",
    threads: Threads = None,
    device: Device = "auto",
    values: Values = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Estimate log p(x) on held-out data.

    Each number comes with its certificate.

    A long evaluation may be stopped: the same command goes on with it.
    """
    from aevb.evaluation import Annealing, Asked, check_methods
    from aevb.progress import bar
    from aevb.workflow.cards import evaluation_table
    from aevb.workflow.outputs import write_array
    from aevb.workflow.scores import score

    methods = _names(method)
    check_methods(methods)
    _check_options(ctx, run, methods)
    how = samples, Annealing(temperatures), start, _names(proposals)
    asked = Asked(*how, seed=seed, precision=precision)
    rest: dict[str, Any] = {"limit": data_limit, "refine": refine, "device": device}
    folder = open_run(run, threads)
    with bar("evaluating", quiet=quiet or json_) as progress:
        report, per_datum = score(folder, methods, asked, split=split, progress=progress, **rest)
    if values is not None:
        write_array(values, per_datum[:, None], ("log_p",))
        report["values"] = str(values)
    if json_:
        print_json(report)
    else:
        print(evaluation_table(report))


def _check_options(ctx: typer.Context, run: Path, methods: tuple[str, ...]) -> None:
    """UsageError for rows of a person's own, and for an option that no method would obey."""
    if ctx.args:
        raise UsageError(
            f"rows of the run's own data are evaluated (--split): `aevb score {run} {ctx.args[0]}` "
            "takes others"
        )
    for name, known in MEANT_FOR.items():
        given = str(ctx.get_parameter_source(name)).endswith("COMMANDLINE")
        if given and not set(known) & set(methods):
            raise UsageError(
                f"--{name} is for the methods {', '.join(known)}, and says nothing to "
                f"{', '.join(methods)}: leave it out"
            )


@app.command()
def check(
    run: Run,
    data: RowsOf = None,
    gaps: Annotated[
        bool, typer.Option("--gaps", help="Then say where the bound goes, on training and test.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 where something was found.")
    ] = False,
    data_limit: Annotated[
        int, typer.Option(min=2, help="Rows that are looked at, and as many of training.")
    ] = 1000,
    seed: Seed = 0,
    threads: Threads = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what is wrong with a run.

    With the figure behind it, and the one option to change.

    The gaps take minutes, and may be stopped: the same command goes on with them.
    """
    from aevb.progress import bar
    from aevb.workflow.checkup import check_up
    from aevb.workflow.gaps import measure_gaps

    if gaps and data is not None:
        raise UsageError("--gaps compares the run's own training and test rows: leave DATA out")
    folder = open_run(run, threads)
    with bar("checking", quiet=quiet or json_) as progress:
        found = check_up(folder, data, limit=data_limit, seed=seed, progress=progress)
    report, lines = found.as_dict(), [str(found)]
    if gaps:
        with bar("measuring gaps", quiet=quiet or json_) as progress:
            table = measure_gaps(folder, data_limit, seed, progress)
        report["gaps"] = table.as_dict()
        lines += ["", str(table)]
    say(report, "\n".join(lines), json_)
    if strict and not found.examination.healthy:
        raise typer.Exit(1)


@app.command()
def gradients(
    run: Run,
    data_limit: Annotated[
        int, typer.Option(min=1, help="Test rows that they are gradients of.")
    ] = 20,
    replicates: Annotated[int, typer.Option(min=20, help="Draws of the noise.")] = 1000,
    samples: Annotated[
        int | None, typer.Option(min=1, help="For each datum [default: the run's].")
    ] = None,
    seed: Seed = 0,
    threads: Threads = None,
    figure: Annotated[Path | None, to_file("Draw the variances into this .png.", ".png")] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare the estimators of the gradient.

    It measures the bias, variance and cost of each, and recommends one."""
    from aevb.plots import gradient_variances, save
    from aevb.progress import bar
    from aevb.workflow.gradients import measure_gradients

    folder = open_run(run, threads)
    with bar("measuring gradients", quiet=quiet or json_) as progress:
        found = measure_gradients(
            folder,
            limit=data_limit,
            replicates=replicates,
            samples=samples,
            seed=seed,
            progress=progress,
        )
    report = {"run": str(folder.path), "seed": seed, **found.as_dict()}
    text = str(found)
    if figure is not None:
        names = [e.name for e in found.estimators]
        values = {part: [e.of(part).variance for e in found.estimators] for part in found.norms}
        biased = [e.name for e in found.estimators if not e.unbiased]
        report["figure"] = str(save(gradient_variances(names, values, biased=biased), figure))
        text += f"\n{figure}"
    say(report, text, json_)


def _names(text: str) -> tuple[str, ...]:
    """The words between commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())
