"""Commands that tell classes apart: `classify` learns and judges, `predict` takes new rows."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from aevb.cli.options import Json, Limit, Quiet, Seed, widths
from aevb.cli.root import app, print_json, say
from aevb.errors import UsageError


@app.command()
def classify(
    data: Annotated[
        str,
        typer.Argument(help="A set with labels (digits, mnist), a table, or folders of images."),
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
    latent_dim: Annotated[int, typer.Option(min=1, help="Latent dimensions.")] = 5,
    hidden: Annotated[str, typer.Option(help="Widths, encoder first, like 200,200.")] = "50",
    likelihood: Annotated[str, typer.Option(help="As of aevb train.")] = "auto",
    features_dim: Annotated[
        int, typer.Option(min=1, help="Latent dimensions of m1 in m1+m2.")
    ] = 50,
    features_hidden: Annotated[str, typer.Option(help="Widths of m1 in m1+m2.")] = "500",
    classification: Annotated[
        float, typer.Option(help="Weight of the labels in m2 and m1+m2, nats per row.")
    ] = 1.0,
    samples: Annotated[
        int, typer.Option(min=1, help="Of z for each row and class, of bayes.")
    ] = 100,
    lr: Annotated[float | None, typer.Option(help="Learning rate of Adam.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="M, data per step.")] = 100,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the rows [default: by their number].")
    ] = None,
    binarize: Annotated[
        Literal["none", "threshold"], typer.Option(help="Of grey levels.")
    ] = "none",
    data_limit: Limit = None,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="A folder to keep the classifier in.")] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Learn classes from some labels, and say how often the classifier is right on test rows."""
    import sys

    from aevb.estimator import VAE
    from aevb.workflow.classify import Choice, classification_table
    from aevb.workflow.classify import classify as learn_and_judge

    if out is not None and out.exists():
        raise UsageError(f"{out} exists already: name another folder with --out")

    def vae(size: int, width: str) -> VAE:
        return VAE(
            size,
            hidden=widths(width),
            likelihood=likelihood,
            lr=lr,
            batch_size=batch_size,
            epochs=epochs,
            random_state=seed,
        )

    def tell(line: str) -> None:
        if not quiet and not json_:
            print(line, file=sys.stderr)

    report = learn_and_judge(
        data,
        Choice(model, label, labels, classification, samples, binarize, data_limit, seed),
        *(vae(latent_dim, hidden), vae(features_dim, features_hidden)),
        out=out,
        report=tell,
    )
    if json_:
        print_json(report)
        return
    print(classification_table(report))
    if out is not None:
        print(f"next: aevb predict {out} DATA --out predictions.csv")


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="A folder that `aevb classify --out` wrote.")],
    data: Annotated[str, typer.Argument(help="A set's name (its test rows), or a file.")],
    out: Annotated[Path | None, typer.Option(help="Where to write classes: .csv.")] = None,
    json_: Json = False,
) -> None:
    """Say the class of rows, with the probability of each, by a classifier that was kept."""
    from aevb.workflow.classify import predicted

    report = predicted(run, data, out)
    found = ", ".join(f"{label}: {count}" for label, count in report["counts"].items())
    right = f"; accuracy {100 * report['accuracy']:.2f} %" if "accuracy" in report else ""
    say(report, f"{report['rows']} rows ({found}){right}", json_)
