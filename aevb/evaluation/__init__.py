"""Estimates of log p(x) with their certificate, and diagnosis."""

from aevb.evaluation.certificate import Certificate, treatment
from aevb.evaluation.diagnosis import Diagnosis, diagnose
from aevb.evaluation.estimates import (
    Evidence,
    batch_for,
    bound_parts,
    bound_sums,
    evaluating,
    evidence,
    first_batch,
    operations,
    score_rows,
    worth_compiling,
)
from aevb.evaluation.refit import refit

__all__ = [
    "Certificate",
    "Diagnosis",
    "Evidence",
    "batch_for",
    "bound_parts",
    "bound_sums",
    "diagnose",
    "evaluating",
    "evidence",
    "first_batch",
    "operations",
    "refit",
    "score_rows",
    "treatment",
    "worth_compiling",
]
