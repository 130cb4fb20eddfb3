"""Signs of data that are not what they are taken for: another treatment, other values, copies."""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from aevb.data import Binarization, Rows
from aevb.data.fingerprints import keys_of_rows
from aevb.evaluation.case import Case
from aevb.evaluation.findings import Finding, Skipped

MOST_TIMES_WIDER = 5.0
MOST_SHIFTED, SHIFT_ERRORS = 1.0, 6.0
MOST_COPIES = 0.5
ROWS_AT_ONCE = 10_000


def other_treatment(case: Case) -> Finding | None:
    """The evaluation that was kept is of data binarized otherwise, or of training rows."""
    if case.evaluated is None:
        raise Skipped("no evaluation was kept")
    was, should = str(case.evaluated.get("binarize", "")), case.settings.get("binarize") or "none"
    was, mean = was.split(" ")[0], float(case.evaluated.get("mean") or math.nan)
    if was != should:
        return Finding(
            "other-treatment",
            f"The last evaluation, {mean:.2f} nats, was of data with binarize {was}, and the model "
            f"was trained with binarize {should}: the two cannot be compared.",
            mean,
            "Evaluate again: aevb evaluate treats rows as training did.",
        )
    if str(case.evaluated.get("data", "")).endswith(" train"):
        return Finding(
            "evaluated-on-training-rows",
            f"The last evaluation, {mean:.2f} nats, was of training rows: it says nothing of new "
            "ones.",
            mean,
            "Evaluate with --split test.",
        )
    return None


def unlike_training(case: Case) -> Finding | None:
    """Held-out values are of another kind, scale or place than those of training.

    All 0 or 1 on one side alone; a deviation five times the other; or a column whose means are a
    deviation apart, and six standard errors.
    """
    seen, new = case.train_x, case.x
    steps = [bool(((x == 0) | (x == 1) | x.isnan()).all()) for x in (seen, new)]
    if steps[0] != steps[1]:
        names = ["grey levels or other numbers", "0 and 1 alone"]
        return _unlike(
            f"held-out rows hold {names[steps[1]]}, training rows {names[steps[0]]}", 1.0
        )
    (mean, deviation), (new_mean, new_deviation) = _moments(seen), _moments(new)
    pooled, new_pooled = (float(np.sqrt(np.mean(d**2))) for d in (deviation, new_deviation))
    if pooled and new_pooled and abs(math.log(new_pooled / pooled)) > math.log(MOST_TIMES_WIDER):
        ratio = new_pooled / pooled
        return _unlike(f"their deviation is {ratio:.3g} times that of training rows", ratio)
    error = np.sqrt(deviation**2 / len(seen) + new_deviation**2 / len(new))
    shift = np.abs(new_mean - mean)
    far = (shift > MOST_SHIFTED * np.maximum(deviation, 1e-3 * pooled)) & (
        shift > SHIFT_ERRORS * error
    )
    if not far.any():
        return None
    relative = shift / np.where(deviation > 0, deviation, np.nan)
    worst = int(np.argmax(np.where(far, np.nan_to_num(relative, nan=np.inf), 0)))
    return _unlike(
        f"in {int(far.sum())} of {len(far)} columns their mean lies more than a deviation off; in "
        f"column {worst + 1} it is {new_mean[worst]:.3g}, in training {mean[worst]:.3g}",
        float(far.mean()),
    )


def _moments(x: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and deviation of each column of (N, X), of the cells that were observed."""
    cells = x.double().numpy()
    count = np.maximum((~np.isnan(cells)).sum(0), 1)
    mean = np.nansum(cells, 0) / count
    return mean, np.sqrt(np.nansum((cells - mean) ** 2, 0) / count)


def _unlike(what: str, figure: float) -> Finding:
    return Finding(
        "unlike-training",
        f"The held-out rows are unlike those of training: {what}.",
        figure,
        "Name DATA with the treatment of training: the same units, scale and kind of values.",
    )


def copies(case: Case) -> Finding | None:
    """More than half of the held-out rows are training rows too, to the last bit, and at least
    twice the share of training rows that stand in the data more than once."""
    if case.all_train is None or not len(case.all_train):
        raise Skipped("no training rows are known")
    keys = _keys(case.all_train)
    share = float(np.isin(_keys(case.held_out), keys).mean())
    _, place, times = np.unique(keys, return_inverse=True, return_counts=True)
    usual = float((times[place] > 1).mean())
    if share <= max(MOST_COPIES, 2 * usual):
        return None
    return Finding(
        "held-out-rows-in-training",
        f"{100 * share:.0f} % of the held-out rows are training rows as well: their bound is no "
        "test of anything.",
        share,
        "Name DATA that the model has not seen.",
    )


def _keys(rows: Rows) -> NDArray[np.uint64]:
    """A number for the content of each row, as it was before a draw made it black and white."""
    plain = replace(rows, binarize=Binarization.NONE)
    return np.concatenate([keys_of_rows(x.numpy()) for _, x in plain.chunks(ROWS_AT_ONCE)])
