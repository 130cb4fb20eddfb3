"""Commands that show and hand on: `plot`, `report`, `export`, `data`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from aevb.cli.options import AllowNan, Json, Quiet, Resize, Run, Seed, size_of, to_file
from aevb.cli.root import app, open_run, print_json, say
from aevb.errors import UsageError


@app.command()
def plot(
    run: Run,
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="all, or one of curve, reconstructions, samples, pairs, manifold, "
            "prior-predictive, latent, interpolation, traversals, kl, rows, scores, training, "
            "cloud, imputation.",
        ),
    ] = "all",
    out: Annotated[
        Path | None,
        typer.Option(help="A .png (.gif: cloud), or with `all` a folder [default: RUN/figures]."),
    ] = None,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Draw pictures of a run: PNG files, and an animated GIF."""
    from aevb.workflow.material import Material
    from aevb.workflow.pictures import file_name, picture, pictures_of

    if kind == "all" and out is not None and out.suffix in (".png", ".gif"):
        raise UsageError(f"--out {out}: all pictures go into a folder, and this is the name of one")
    folder = open_run(run)
    material = Material(folder, seed)
    if kind == "all":
        where = out or folder.figures
        targets = {name: where / file_name(name) for name in pictures_of(material)}
    else:
        targets = {kind: out or folder.figures / file_name(kind)}
    written = [str(picture(material, name, target)) for name, target in targets.items()]
    say({"figures": written}, "\n".join(written), json_)


@app.command()
def report(
    run: Run,
    out: Annotated[
        Path | None, to_file("An .html file [default: RUN/report.html].", ".html")
    ] = None,
    seed: Seed = 0,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write one self-contained page about a run.

    Numbers, warnings, pictures, and how to reproduce the run."""
    from aevb.progress import bar
    from aevb.workflow.reports import write_report

    with bar("evaluating", quiet=quiet or json_) as progress:
        written = write_report(open_run(run), out, seed=seed, progress=progress)
    say({"report": str(written)}, str(written), json_)


@app.command()
def export(
    run: Run,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    to: Annotated[
        Literal["hub", "onnx"],
        typer.Option(help="hub: the files of a model on the Hugging Face hub; onnx: three graphs."),
    ],
    license_: Annotated[
        str | None, typer.Option("--license", metavar="ID", help="For the hub, like apache-2.0.")
    ] = None,
    json_: Json = False,
) -> None:
    """Write the model for other programs."""
    from aevb.exchange import export_onnx, hub_of_run

    if license_ is not None and to != "hub":
        raise UsageError("--license goes into the card for the hub: leave it out, or use --to hub")
    folder = open_run(run)
    if to == "hub":
        hub_of_run(folder, out, license=license_)
        files = sorted(str(path) for path in out.iterdir() if path.is_file())
    else:
        files = [str(path) for path in export_onnx(out, *folder.load())]
    say({"out": str(out), "files": files}, "\n".join(files), json_)


@app.command()
def data(
    name: Annotated[
        str | None, typer.Argument(metavar="DATA", help="A data set's name, or a file.")
    ] = None,
    allow_nan: AllowNan = False,
    resize: Resize = None,
    json_: Json = False,
) -> None:
    """List the data sets, or fetch and describe one."""
    from aevb.workflow.description import column_lines, data_table, describe_data

    if name is not None:
        facts = describe_data(name, allow_nan=allow_nan, image_size=size_of(resize))
        if json_:
            print_json(facts)
            return
        columns = facts.pop("columns", [])
        print("\n".join(f"{key:<12} {value}" for key, value in facts.items()))
        if columns:
            print("\n".join(["columns", *column_lines(columns)]))
        return
    rows = data_table()
    lines = [
        f"{row['name']:<16} {row['rows']:>6} x {row['shape']:<12} {row['likelihood']:<21}"
        f"{row['where']}"
        for row in rows
    ]
    say({"data": rows}, "\n".join(lines), json_)
