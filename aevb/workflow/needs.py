"""What a run must have for a picture: each gives a clause on why it has none, or nothing."""

from aevb.distributions import Mixture, center, on_reals
from aevb.errors import UsageError
from aevb.model import observing
from aevb.workflow.material import Material

KINDS = {"image": "an image", "signal": "a signal"}


def nothing(material: Material) -> str:
    """Every run has such a picture."""
    return ""


def data(material: Material) -> str:
    """The data of the run, in a file or under a name."""
    return "" if material.in_file else "it was fitted in Python, on data that no file holds"


def lines(material: Material) -> str:
    """Rows that are images or lines."""
    return "a table is drawn as pairs" if material.kind == "table" else ""


def table(material: Material) -> str:
    """Rows of a table."""
    if material.kind != "table":
        return f"its data are no table, but each {KINDS[material.kind]}"
    return data(material)


def free(material: Material) -> str:
    """Codes that may be any real numbers, and lie around 0 as those of one law do."""
    prior = material.model.prior()
    if on_reals(prior) and not isinstance(prior, Mixture):
        return ""
    return "it shows codes anywhere in space, and those of this model lie in a part of it"


def plane(material: Material) -> str:
    """Two latent dimensions, without bounds."""
    if material.latent_dim == 2:
        return free(material)
    return f"it needs two latent dimensions, and there are {material.latent_dim} (--latent-dim 2)"


def dimensions(material: Material) -> str:
    """At least two latent dimensions."""
    return free(material) if material.latent_dim > 1 else "it needs at least two latent dimensions"


def divergences(material: Material) -> str:
    """A divergence for each latent dimension."""
    if why := data(material):
        return why
    known = material.diagnosis.kl_by_dimension is not None
    return "" if known else "its posterior has no divergence for each dimension"


def history(material: Material) -> str:
    """The bounds of the epochs."""
    records = material.folder.history()
    if not records:
        return "it holds no metrics of its training"
    known = any(record["train"]["elbo"] is not None for record in records)
    return "" if known else "it was trained by an algorithm that knows of no bound"


def snapshots(material: Material) -> str:
    """Snapshots along the training."""
    return "" if len(material.trail.epochs) else "no snapshots of its training are there"


def frames(material: Material) -> str:
    """Snapshots of images or lines."""
    return lines(material) or snapshots(material)


def cells(material: Material) -> str:
    """Cells that are independent given z, so that some of them may be hidden."""
    if why := data(material):
        return why
    try:
        masked = observing(material.model)
        masked.likelihood(center(masked.prior())[None])
    except UsageError:
        return "the cells of a row are not independent under its likelihood"
    return ""
