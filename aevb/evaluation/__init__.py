"""Estimates of log p(x) with their certificate, and diagnosis."""

from aevb.evaluation.annealing import Annealing, annealed, bidirectional, simulate
from aevb.evaluation.batches import batch_for, evaluating, first_batch, in_batches
from aevb.evaluation.calibration import Calibration, calibrate
from aevb.evaluation.certificate import Certificate
from aevb.evaluation.diagnosis import Diagnosis, diagnose
from aevb.evaluation.estimates import (
    Evidence,
    bound_parts,
    bound_sums,
    evidence,
    multiple_importance,
    score_rows,
    split_samples,
)
from aevb.evaluation.estimation import (
    SAMPLES,
    Asked,
    Estimates,
    Sandwich,
    check_methods,
    estimate,
)
from aevb.evaluation.exact import exact
from aevb.evaluation.examination import check
from aevb.evaluation.findings import Examination
from aevb.evaluation.gaps import Gaps, gaps
from aevb.evaluation.gradients import Comparison, compare_gradients
from aevb.evaluation.reciprocal import reciprocal
from aevb.evaluation.refit import posterior_for, refit
from aevb.evaluation.work import operations, worth_compiling

__all__ = [
    "SAMPLES",
    "Annealing",
    "Asked",
    "Calibration",
    "Certificate",
    "Comparison",
    "Diagnosis",
    "Estimates",
    "Evidence",
    "Examination",
    "Gaps",
    "Sandwich",
    "annealed",
    "batch_for",
    "bidirectional",
    "bound_parts",
    "bound_sums",
    "calibrate",
    "check",
    "check_methods",
    "compare_gradients",
    "diagnose",
    "estimate",
    "evaluating",
    "evidence",
    "exact",
    "first_batch",
    "in_batches",
    "gaps",
    "multiple_importance",
    "operations",
    "posterior_for",
    "reciprocal",
    "refit",
    "score_rows",
    "simulate",
    "split_samples",
    "worth_compiling",
]
