"""Commands on codes: `sample`, `reconstruct`, `encode`, `decode`, `interpolate`, `traverse`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aevb.cli.options import Json, Limit, Out, Refine, RowsOf, Run, Seed, to_file
from aevb.cli.root import app, open_run, row_number, say
from aevb.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from aevb.model import Model
    from aevb.storage import RunFolder

    Array = NDArray[np.float64]


@app.command()
def sample(
    run: Run,
    n: Annotated[int, typer.Option("--n", min=1, help="How many.")] = 64,
    draw: Annotated[bool, typer.Option("--draw", help="Draws of p(x | z), not its mean.")] = False,
    latent: Annotated[
        Path | None, to_file("Write z here too: .npy or .csv.", ".npy", ".csv")
    ] = None,
    out: Out = None,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Sample the model: z from the prior, then x.

    It is the mean of p(x | z) for each z, or with --draw a draw."""
    from aevb import codes
    from aevb.workflow.material import Material
    from aevb.workflow.outputs import dimensions, write_array
    from aevb.workflow.pictures import draw_beside, draw_rows

    folder = open_run(run)
    model, _ = folder.load()
    rows = codes.sample(model, n, seed=seed, draw=draw)

    def picture() -> "Axes":
        material = Material(folder)
        if material.kind == "table" and material.in_file:
            return draw_beside(material, material.data.train.limit(1000), rows, "samples")
        return draw_rows(material, rows, title="Samples from the prior")

    more = {}
    if latent is not None:
        z = codes.sample_latent(model, n, seed=seed)
        write_array(latent, z, dimensions(z))
        more["latent"] = str(latent)
    deliver(folder, rows, out, "samples.npy", json_, picture, drawn=draw, more=more)


@app.command()
def reconstruct(
    run: Run,
    data: RowsOf = None,
    refine: Refine = None,
    out: Out = None,
    data_limit: Limit = None,
    json_: Json = False,
) -> None:
    """Encode and decode rows.

    It is the mean of p(x | z) at the posterior mean."""
    from aevb import codes
    from aevb.workflow.material import Material
    from aevb.workflow.pictures import draw_beside

    folder = open_run(run)
    rows = folder.rows(data).limit(data_limit)
    model, posterior = folder.load_for(rows, refine)
    result = codes.reconstruct(model, posterior, rows)

    def picture() -> "Axes":
        return draw_beside(Material(folder), rows, result, "reconstruction")

    deliver(folder, result, out, "reconstructions.npy", json_, picture)


@app.command()
def encode(
    run: Run,
    data: RowsOf = None,
    samples: Annotated[
        int | None,
        typer.Option(min=1, help="So many draws of z for each row, not its mean: S x N x D."),
    ] = None,
    refine: Refine = None,
    out: Annotated[
        Path | None,
        to_file("Where to write: .npy or .csv [default: RUN/codes.npy].", ".npy", ".csv"),
    ] = None,
    data_limit: Limit = None,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Encode rows: posterior means, or draws."""
    from aevb import codes
    from aevb.workflow.outputs import dimensions, write_array

    folder = open_run(run)
    target = folder.path / "codes.npy" if out is None else out
    if samples is not None and target.suffix == ".csv":
        raise UsageError(f"{target}: draws have three axes, S x N x D, so write them to .npy")
    rows = folder.rows(data).limit(data_limit)
    model, posterior = folder.load_for(rows, refine)
    if samples is None:
        array = codes.encode(model, posterior, rows)
    else:
        array = codes.encode_samples(model, posterior, rows, samples=samples, seed=seed)
    write_array(target, array, dimensions(array))
    told(target, array, json_)


@app.command()
def decode(
    run: Run,
    codes_file: Annotated[str, typer.Argument(metavar="CODES", help="Codes: .npy or .csv.")],
    out: Out = None,
    json_: Json = False,
) -> None:
    """Decode codes: the mean of p(x | z)."""
    from aevb import codes, data
    from aevb.workflow.material import Material
    from aevb.workflow.pictures import draw_rows

    folder = open_run(run)
    model, _ = folder.load()
    source = data.open_source(codes_file, allow_nan=True)
    if source.missing:
        raise DataError(
            f"{codes_file} has {source.missing} missing cells: a code needs a number for every "
            "latent dimension"
        )
    if any(column.levels for column in source.columns):
        raise DataError(f"{codes_file} has columns of text: codes are numbers")
    size, shape = model.prior().event_shape[0], source.values.shape
    if shape[1:] != (size,):
        more = "more axes, as `encode --samples` writes them: take one of the draws"
        found = more if len(shape) > 2 else shape
        raise DataError(f"{codes_file}: expected codes of shape (N, {size}), found {found}")
    result = codes.decode(model, source.values.astype("float64"))
    deliver(
        folder,
        result,
        out,
        "decoded.npy",
        json_,
        lambda: draw_rows(Material(folder), result, title="Decoded"),
    )


@app.command()
def interpolate(
    run: Run,
    data: RowsOf = None,
    start: Annotated[int, typer.Option("--from", min=1, help="Row to start at, from 1.")] = 1,
    stop: Annotated[int, typer.Option("--to", min=1, help="Row to end at.")] = 2,
    steps: Annotated[int, typer.Option(min=2, help="Steps, both ends included.")] = 10,
    spherical: Annotated[
        bool, typer.Option("--spherical", help="Along a sphere, not a straight line.")
    ] = False,
    out: Out = None,
    json_: Json = False,
) -> None:
    """Decode the way between the codes of two rows.

    It is a straight line or an arc."""
    from aevb import codes
    from aevb.workflow.material import Material
    from aevb.workflow.pictures import draw_walk

    folder = open_run(run)
    model, (first, last) = _codes(folder, data, start, stop)
    way = codes.decode(model, codes.interpolate(first, last, steps, spherical=spherical))
    deliver(folder, way, out, "interpolation.npy", json_, lambda: draw_walk(Material(folder), way))


@app.command()
def traverse(
    run: Run,
    data: RowsOf = None,
    dimension: Annotated[
        int | None,
        typer.Option(min=1, help="Latent dimension, from 1 [default: each after the other]."),
    ] = None,
    start: Annotated[
        int | None,
        typer.Option("--from", min=1, help="Row whose code the others stay at [default: at 0]."),
    ] = None,
    out: Out = None,
    json_: Json = False,
) -> None:
    """Decode steps along a latent dimension.

    They are 13 from -3 to 3, the other dimensions held."""
    import numpy as np

    from aevb import codes
    from aevb.workflow.material import Material
    from aevb.workflow.pictures import draw_traversals

    folder = open_run(run)
    model, _ = folder.load()
    size = int(model.prior().event_shape[0])
    if dimension is not None and dimension > size:
        raise UsageError(
            f"--dimension {dimension} was asked for, the latent space has dimensions 1 to {size}"
        )
    if data is not None and start is None:
        raise UsageError("DATA are the rows that --from chooses of: name one, like --from 1")
    code = None if start is None else _codes(folder, data, start)[1][0]
    dimensions = list(range(size)) if dimension is None else [dimension - 1]
    ways = [codes.traverse(model, d, start=code) for d in dimensions]
    rows = codes.decode(model, np.concatenate(ways))
    deliver(
        folder,
        rows,
        out,
        "traversals.npy",
        json_,
        lambda: draw_traversals(Material(folder), rows, dimensions),
    )


def _codes(folder: "RunFolder", data: str | None, *numbers: int) -> "tuple[Model, Array]":
    """The model, and the codes of rows that are named by their numbers."""
    import numpy as np

    from aevb import codes

    rows = folder.rows(data)
    some = rows.pick(np.array([row_number(row, len(rows)) for row in numbers]))
    model, posterior = folder.load_for(some)
    return model, codes.encode(model, posterior, some)


def deliver(
    folder: "RunFolder",
    array: "Array",
    out: Path | None,
    default: str,
    json_: bool,
    picture: "Callable[[], Axes]",
    *,
    drawn: bool = False,
    more: dict[str, Any] | None = None,
) -> None:
    """Write rows of data where they were asked for, as numbers or as a picture, and say where."""
    from aevb import plots
    from aevb.workflow.outputs import write_rows

    target = folder.path / default if out is None else out
    if target.suffix == ".png":
        plots.save(picture(), target)
    else:
        write_rows(target, array, folder.columns, drawn=drawn)
    told(target, array, json_, more)


def told(
    target: Path, array: "NDArray[Any]", json_: bool, more: dict[str, Any] | None = None
) -> None:
    """Say what was written where."""
    line = f"{target}: {' x '.join(map(str, array.shape))}"
    say({"out": str(target), "shape": list(array.shape), **(more or {})}, line, json_)
