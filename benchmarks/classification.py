"""Bayes' rule over a model for each class, on scikit-learn's digits, in five folds.

    python benchmarks/classification.py

A VAE of 5 latent dimensions for each digit, as `VAEClassifier` fits it, against scikit-learn's
logistic regression, nearest neighbors and quadratic discriminants on the same folds; accuracy on
held-out rows. The result goes into classification.json beside this file.
"""

import json
import time
from pathlib import Path

from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from aevb import VAE, VAEClassifier

FOLDS = StratifiedKFold(5, shuffle=True, random_state=0)
CLASSIFIERS = {
    "Bayes' rule, a VAE for each class": VAEClassifier(VAE(5, hidden=(50,), epochs=150)),
    "logistic regression": LogisticRegression(max_iter=5000),
    "nearest neighbors": KNeighborsClassifier(),
    "quadratic discriminants": QuadraticDiscriminantAnalysis(reg_param=0.1),
}


def main() -> None:
    x, y = load_digits(return_X_y=True)
    found = {}
    for name, classifier in CLASSIFIERS.items():
        begun = time.process_time()
        scores = cross_val_score(classifier, x, y, cv=FOLDS)
        found[name] = {
            "accuracy": scores.mean(),
            "standard_error": scores.std(ddof=1) / len(scores) ** 0.5,
            "folds": scores.tolist(),
            "processor_seconds": round(time.process_time() - begun, 1),
        }
        line = f"{100 * scores.mean():.2f} % ± {100 * found[name]['standard_error']:.2f}"
        print(f"{name}: {line}", flush=True)
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
