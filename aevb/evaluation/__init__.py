"""Estimates of log p(x) with their certificate, and diagnosis."""

from aevb.evaluation.certificate import Certificate, treatment
from aevb.evaluation.diagnosis import Diagnosis, diagnose
from aevb.evaluation.estimates import (
    Evidence,
    bound_parts,
    bound_sums,
    evaluating,
    evidence,
    operations,
    score_rows,
)
from aevb.evaluation.refit import refit

__all__ = [
    "Certificate",
    "Diagnosis",
    "Evidence",
    "bound_parts",
    "bound_sums",
    "diagnose",
    "evaluating",
    "evidence",
    "operations",
    "refit",
    "score_rows",
    "treatment",
]
