"""What a VAE is for, on scikit-learn's digits, against what scikit-learn has for it.

    python benchmarks/digits.py [classification] [anomalies] [imputation]

1. Codes for a classifier: StandardScaler, VAE or PCA of equal dimension, LogisticRegression, in a
   grid search over C by 5-fold cross-validation; accuracy of the best C.
2. Anomalies: each class in turn held out as outliers; models fitted to 80 % of the other nine,
   scores of their other 20 % and of the outliers; area under the ROC curve.
3. Missing pixels: half of them, at random, in held-out digits; squared error of what is filled in.
"""

import sys
import time
from tempfile import TemporaryDirectory

import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from aevb import VAE, VAEDetector

DIGITS = load_digits()
X, LABELS = DIGITS.data / 16, DIGITS.target


def classification() -> None:
    for size in (2, 8):
        for name, reduce in (("PCA", PCA(size, random_state=0)), ("VAE", VAE(size))):
            start = time.perf_counter()
            steps = StandardScaler(), reduce, LogisticRegression(max_iter=2000)
            grid = {"logisticregression__C": [0.1, 1.0, 10.0]}
            with TemporaryDirectory() as cache:  # one fit of the codes for all C
                line = make_pipeline(*steps, memory=cache)
                search = GridSearchCV(line, grid, cv=5).fit(X * 16, LABELS)
            best = search.cv_results_["std_test_score"][search.best_index_]
            print(
                f"{name} {size}: accuracy {search.best_score_:.3f} ± {best / 5**0.5:.3f} "
                f"({time.perf_counter() - start:.0f} s)",
                flush=True,
            )


def anomalies() -> None:
    areas: dict[str, list[float]] = {}
    for digit in range(10):
        inside, outside = X[digit != LABELS], X[digit == LABELS]
        train, test = train_test_split(inside, test_size=0.2, random_state=digit)
        both = np.concatenate([test, outside])
        is_outlier = np.arange(len(both)) >= len(test)
        scores = {"VAE": -VAEDetector().fit(train).score_samples(both)}
        for size in (5, 10):
            pca = PCA(size, random_state=0).fit(train)
            errors = both - pca.inverse_transform(pca.transform(both))
            scores[f"PCA {size}"] = (errors**2).sum(1)
        forest = IsolationForest(random_state=0).fit(train)
        scores["isolation forest"] = -forest.score_samples(both)
        for name, values in scores.items():
            areas.setdefault(name, []).append(roc_auc_score(is_outlier, values))
        line = "  ".join(f"{name} {area[-1]:.3f}" for name, area in areas.items())
        print(f"digit {digit} held out: {line}", flush=True)
    print("mean: " + "  ".join(f"{name} {np.mean(area):.3f}" for name, area in areas.items()))


def imputation() -> None:
    train, test = train_test_split(X, test_size=0.2, random_state=0)
    holes = np.random.default_rng(0).random(test.shape) < 0.5
    seen = np.where(holes, np.nan, test)

    def error(filled: np.ndarray) -> float:
        return float(((filled - test)[holes] ** 2).mean())

    keep = {"keep_empty_features": True}
    print(f"column mean {error(SimpleImputer(**keep).fit(train).transform(seen)):.5f}")
    for k in (3, 5, 10):
        filled = KNNImputer(n_neighbors=k, **keep).fit(train).transform(seen)
        print(f"{k} nearest neighbors {error(filled):.5f}", flush=True)
    models = {
        "VAE(20)": VAE(20),
        "VAE(20, hidden=(200, 200))": VAE(20, hidden=(200, 200)),
        "VAE(20, hidden=(200, 200), objective='iwae', samples=5)": VAE(
            20, hidden=(200, 200), objective="iwae", samples=5
        ),
    }
    for name, vae in models.items():
        vae.fit(train)
        for method in ("hmc", "importance"):
            start = time.perf_counter()
            filled = vae.impute(seen, method=method)
            took = time.perf_counter() - start
            print(f"{name}, {method}: {error(filled):.5f} ({took:.0f} s)", flush=True)


if __name__ == "__main__":
    parts = {"classification": classification, "anomalies": anomalies, "imputation": imputation}
    for part in sys.argv[1:] or parts:
        print(f"\n{part}")
        parts[part]()
