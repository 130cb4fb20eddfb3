"""Estimates of log p(x) with their certificate, and diagnosis."""

from aevb.evaluation.certificate import Certificate, treatment
from aevb.evaluation.diagnosis import Diagnosis, diagnose
from aevb.evaluation.estimates import Evidence, bound_parts, elbo, evaluating, evidence, importance
from aevb.evaluation.refit import refit

__all__ = [
    "Certificate",
    "Diagnosis",
    "Evidence",
    "bound_parts",
    "diagnose",
    "elbo",
    "evaluating",
    "evidence",
    "importance",
    "refit",
    "treatment",
]
