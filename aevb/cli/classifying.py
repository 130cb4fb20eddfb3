"""Commands that tell classes apart: `classify` learns and judges, `predict` takes new rows."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from aevb.cli.options import Json, Quiet, takes_settings, to_file, widths
from aevb.cli.root import app, print_json, say
from aevb.errors import UsageError

OF_DENSITIES = ("latent_dim", "hidden", "likelihood", "lr", "batch_size", "epochs")
"""Settings of each model of data; what else there is suits most."""


@app.command()
@takes_settings(*OF_DENSITIES, "data_limit", "seed", latent_dim=5, hidden=(50,), seed=0)
def classify(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA", help="A set with labels (digits, mnist), a table, or folders of images."
        ),
    ] = "digits",
    label: Annotated[
        str | None, typer.Option(help="The column of a table that holds the class.")
    ] = None,
    model: Annotated[
        Literal["bayes", "m1", "m2", "m1+m2"],
        typer.Option(
            help="bayes: a model for each class; m1: codes and logistic regression; m2: a class "
            "beside the code; m1+m2: m2 of the codes of m1."
        ),
    ] = "bayes",
    labels: Annotated[
        int | None, typer.Option(min=1, help="Labels that are seen [default: all].")
    ] = None,
    features_dim: Annotated[
        int, typer.Option(min=1, help="Latent dimensions of m1 in m1+m2.")
    ] = 50,
    features_hidden: Annotated[str, typer.Option(help="Widths of m1 in m1+m2.")] = "500",
    classification: Annotated[
        float, typer.Option(help="Weight of the labels in m2 and m1+m2, nats per row.")
    ] = 0.1,
    samples: Annotated[
        int, typer.Option(min=1, help="Of z for each row and class, of bayes.")
    ] = 100,
    binarize: Annotated[
        Literal["none", "threshold"], typer.Option(help="Of grey levels.")
    ] = "none",
    out: Annotated[Path | None, typer.Option(help="A folder to keep the classifier in.")] = None,
    json_: Json = False,
    quiet: Quiet = False,
    **given: Any,
) -> None:
    """Learn classes from some labels.

    It says how often the classifier is right on test rows."""
    import sys
    from functools import partial

    from aevb.workflow import classify as learned

    if out is not None and out.exists():
        raise UsageError(f"{out} exists already: name another folder with --out")
    rest: dict[str, Any] = {"limit": given.pop("data_limit", None), "seed": given.pop("seed")}
    rest |= {"label": label, "labels": labels, "binarize": binarize}
    choice = learned.Choice(model=model, classification=classification, samples=samples, **rest)
    features = {**given, "latent_dim": features_dim, "hidden": widths(features_hidden)}
    told = {} if quiet or json_ else {"report": partial(print, file=sys.stderr)}
    report = learned.classify(data, choice, given, features, out=out, **told)
    if json_:
        print_json(report)
        return
    print(learned.classification_table(report))
    if out is not None:
        print(f"next: aevb predict {out} DATA --out predictions.csv")


@app.command()
def predict(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A folder that `aevb classify --out` wrote.")
    ],
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="A set's name (its test rows), or a file.")
    ],
    out: Annotated[Path | None, to_file("Where to write classes: .csv.", ".csv")] = None,
    json_: Json = False,
) -> None:
    """Say the class of rows, by a classifier that was kept.

    It comes with the probability of each class."""
    from aevb.workflow.classify import predicted

    report = predicted(run, data, out)
    found = ", ".join(f"{label}: {count}" for label, count in report["counts"].items())
    right = f"; accuracy {100 * report['accuracy']:.2f} %" if "accuracy" in report else ""
    say(report, f"{report['rows']} rows ({found}){right}", json_)
