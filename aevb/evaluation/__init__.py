"""Estimates of log p(x) with their certificate, and diagnosis."""

from aevb.evaluation.certificate import Certificate, treatment
from aevb.evaluation.diagnosis import Diagnosis, diagnose
from aevb.evaluation.estimates import (
    Evidence,
    batch_for,
    bound_parts,
    bound_sums,
    device_for,
    evaluating,
    evidence,
    first_batch,
    operations,
    score_rows,
)
from aevb.evaluation.refit import refit

__all__ = [
    "Certificate",
    "Diagnosis",
    "Evidence",
    "batch_for",
    "bound_parts",
    "bound_sums",
    "device_for",
    "diagnose",
    "evaluating",
    "evidence",
    "first_batch",
    "operations",
    "refit",
    "score_rows",
    "treatment",
]
