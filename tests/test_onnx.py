"""ONNX files: onnxruntime gives what torch gives, and the file says what it is."""

import copy
import sys

import mpmath
import numpy as np
import pytest
import torch
from torch import nn
from zoo.pairs import IMAGE, PAIRS, D, X, convolutional, decoder, encoder, perturbed, plain

import aevb
from aevb.conditional import Unconditional
from aevb.errors import ModelFileError, UsageError
from aevb.exchange import export_onnx
from aevb.exchange.graphs import log_gamma, solve_triangular
from aevb.families import Mixture, MultivariateNormal, Normal, Standardized

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
runtime = pytest.importorskip("onnxruntime")

NAMES = ["encoder.onnx", "decoder.onnx", "bound.onnx"]


def drawn(law, n, seed=0):
    """n rows that the likelihood takes."""
    rng = np.random.default_rng(seed)
    rows = {
        "binary": lambda: rng.random((n, X)) < 0.4,
        "grey": lambda: rng.random((n, X)),
        "real": lambda: rng.standard_normal((n, X)),
        "counts": lambda: rng.poisson(3, (n, X)),
        "classes": lambda: rng.integers(0, 4, (n, X)),
    }[law]()
    return torch.from_numpy(rows.astype(np.float32))


def full_covariance(likelihood):
    def build():
        network = encoder(D * (D + 3) // 2)
        return aevb.Model(aevb.standard_normal(D), likelihood()), aevb.full_covariance(network)

    return build


def grey_image():
    model = aevb.Model(
        aevb.standard_normal(D),
        aevb.gaussian(aevb.ConvolutionalDecoder(D, [2, 3], IMAGE, outputs=2), sigmoid_mean=True),
    )
    return model, aevb.full_covariance(aevb.ConvolutionalEncoder(IMAGE, [2], D * (D + 3) // 2))


def standardized():
    return aevb.Conditional(decoder(2 * X), Standardized(Normal(0.01), X))


def full_prior():
    """A prior with a full covariance: its divergence takes a triangle's inverse."""
    prior = Unconditional(MultivariateNormal(), D, learned=True)
    return aevb.Model(prior, aevb.bernoulli(decoder())), aevb.mean_field(encoder())


def no_closed_form():
    """A prior that is a mixture: estimator A."""
    prior = Unconditional(Mixture(D, 2), D)
    return aevb.Model(prior, aevb.bernoulli(decoder())), aevb.mean_field(encoder())


def full_gaussian():
    likelihood = aevb.full_gaussian(decoder(X * (X + 3) // 2))
    return aevb.Model(aevb.standard_normal(D), likelihood), aevb.mean_field(encoder())


slow = pytest.mark.slow
MODELS = {
    "bernoulli": (PAIRS["bernoulli"][0], "binary", slow),
    "convolutional": (convolutional, "binary", ()),
    "negative-binomial": (
        full_covariance(lambda: aevb.negative_binomial(decoder(2 * X))),
        "counts",
        (),
    ),
    "continuous-bernoulli": (
        plain(lambda: aevb.continuous_bernoulli(decoder())),
        "grey",
        slow,
    ),
    "standardized gaussian": (PAIRS["standardized"][0], "real", slow),
    "standardized gaussian, full": (full_covariance(standardized), "real", slow),
    "categorical": (plain(lambda: aevb.categorical(decoder(4 * X), 4)), "classes", slow),
    "poisson": (plain(lambda: aevb.poisson(decoder())), "counts", slow),
    "poisson, full": (full_covariance(lambda: aevb.poisson(decoder())), "counts", slow),
    "grey image, full": (grey_image, "grey", slow),
    "linear": (PAIRS["linear"][0], "binary", slow),
    "full prior": (full_prior, "binary", slow),
    "no closed form": (no_closed_form, "binary", slow),
    "full gaussian": (full_gaussian, "real", slow),
}


def exported(name, folder):
    build, law, _ = MODELS[name]
    model, posterior = (module.eval() for module in perturbed(build))
    files = export_onnx(folder, model, posterior)
    assert [file.name for file in files] == NAMES
    return model, posterior, law, [runtime.InferenceSession(str(file)) for file in files]


def run(session, *inputs):
    names = [put.name for put in session.get_inputs()]
    given = {k: v.numpy() for k, v in zip(names, inputs, strict=True)}
    return [torch.from_numpy(out) for out in session.run(None, given)]


def close(found, expected):
    assert found.dtype == torch.float32
    assert found.shape == expected.shape
    assert torch.allclose(found.double(), expected.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=marks) for name, (_, _, marks) in MODELS.items()]
)
def test_onnxruntime_gives_what_torch_gives(tmp_path, name):
    model, posterior, law, (encode, decode, bound) = exported(name, tmp_path)
    for n, samples in ((1, 1), (7, 3), (100, 2)):
        x = drawn(law, n)
        noise = torch.from_numpy(
            np.random.default_rng(n).standard_normal((samples, n, D)).astype(np.float32)
        )
        with torch.no_grad():
            q = posterior(x)
            mean, spread = run(encode, x)
            close(mean, q.mean)
            if spread.ndim == 3:
                close(spread @ spread.mT, q.covariance_matrix)
            else:
                close(spread.square(), q.variance)
            (expectation,) = run(decode, noise[0])
            close(expectation, model.expectation(noise[0]))
            objective = aevb.elbo_a if name == "no closed form" else aevb.elbo_b
            (elbo,) = run(bound, x, noise)
            # In double precision: the graph's sums need not be rounded as torch's are.
            exact = (copy.deepcopy(module).double() for module in (model, posterior))
            close(elbo, objective(*exact, x.double(), noise.double()))


def test_a_file_says_what_it_is_and_the_model_stays_as_it_was(tmp_path, capfd):
    model, posterior = (m.double().train() for m in perturbed(PAIRS["bernoulli"][0]))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    export_onnx(tmp_path, model, posterior)
    assert capfd.readouterr() == ("", "")
    assert model.training
    assert posterior.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)
    letters = {
        "encoder.onnx": ({"x": ["N", X]}, {"mean": ["N", D], "scale": ["N", D]}),
        "decoder.onnx": ({"z": ["N", D]}, {"expectation": ["N", X]}),
        "bound.onnx": ({"x": ["N", X], "noise": ["S", "N", D]}, {"elbo": ["N"]}),
    }
    for name in NAMES:
        proto = onnx.load(tmp_path / name)
        assert (proto.producer_name, proto.producer_version) == ("aevb", aevb.__version__)
        assert "(N," in proto.doc_string
        assert [part.version for part in proto.opset_import if not part.domain] == [18]
        session = runtime.InferenceSession(str(tmp_path / name))
        puts, gets = session.get_inputs(), session.get_outputs()
        assert all(put.type == "tensor(float)" for put in [*puts, *gets])
        assert letters[name] == ({p.name: p.shape for p in puts}, {p.name: p.shape for p in gets})
        content = (tmp_path / name).read_bytes()
        for folder in (aevb.__path__[0], torch.__path__[0]):  # where it was made is not told
            assert folder.encode() not in content
        assert b"stack_trace" not in content


# --- refusals ------------------------------------------------------------------------------------


def refusal(folder, model, posterior):
    with pytest.raises(UsageError) as caught:
        export_onnx(folder, model, posterior)
    assert not folder.exists()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 400
    return sentence


def test_free_parameters_have_no_encoder(tmp_path):
    assert "no encoder" in refusal(tmp_path / "out", *PAIRS["per-datum"][0]())


def test_steps_for_each_datum_have_no_form(tmp_path):
    model, posterior = PAIRS["bernoulli"][0]()
    said = refusal(tmp_path / "out", model, aevb.refinement.Refined(posterior, model))
    assert "train without them" in said


class Odd(nn.Module):
    """A network with an operator that the format lacks."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(X, 2 * D)

    def forward(self, x):
        return self.out(torch.special.i1(x))


def test_a_part_without_an_onnx_form_is_named(tmp_path):
    model = aevb.Model(aevb.standard_normal(D), aevb.bernoulli(decoder()))
    said = refusal(tmp_path / "out", model, aevb.mean_field(Odd()))
    assert said.startswith("encoder.onnx cannot be made")
    assert "i1" in said


def test_a_posterior_that_is_no_gaussian_is_named(tmp_path):
    model = aevb.Model(aevb.standard_normal(X), aevb.bernoulli(aevb.MLP(X, [4], X)))
    posterior = aevb.posterior.Amortized(aevb.bernoulli(aevb.MLP(X, [4], X)))
    said = refusal(tmp_path / "out", model, posterior)
    assert "only a Gaussian posterior" in said
    assert "train with one (--posterior mean-field)" in said


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_missing_package_names_the_extra(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    said = refusal(tmp_path / "out", *PAIRS["bernoulli"][0]())
    assert said == f"exporting to ONNX needs {package}: pip install 'aevb[onnx]'"


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr("aevb.exchange.onnx._compile", lambda name, graph: b"")
    with pytest.raises(ModelFileError, match="cannot be written"):
        export_onnx(tmp_path / "file", *PAIRS["bernoulli"][0]())


# --- decompositions ------------------------------------------------------------------------------


@mpmath.workdps(50)
def test_log_gamma_is_that_of_mpmath():
    x = np.concatenate(
        [np.geomspace(1e-8, 1e8, 200), np.linspace(0.9, 2.1, 50), np.arange(1, 60), [7.999, 8.001]]
    )
    expected = np.array([float(mpmath.loggamma(mpmath.mpf(v))) for v in x])
    found = log_gamma(torch.from_numpy(x)).numpy()
    assert np.abs(found - expected).max() < 1e-6  # at 1e8 a rounding is of that size
    error = np.abs(found - expected) / np.maximum(np.abs(expected), 1e-3)
    assert error.max() < 1e-11


def test_log_gamma_is_that_of_torch():
    x = torch.cat([torch.logspace(-6, 6, 500), torch.linspace(0.5, 3, 500)])
    assert torch.allclose(log_gamma(x), torch.lgamma(x.double()).float(), rtol=1e-6, atol=1e-7)


def test_substitution_is_that_of_torch():
    rng = np.random.default_rng(0)
    factor = torch.from_numpy(np.tril(rng.standard_normal((4, 9, 9))) + 3 * np.eye(9))
    right = torch.from_numpy(rng.standard_normal((4, 9, 2)))
    expected = torch.linalg.solve_triangular(factor, right, upper=False)
    assert torch.allclose(solve_triangular(factor, right, upper=False), expected)
    for odd in ({"upper": True}, {"upper": False, "left": False}):
        with pytest.raises(UsageError, match="no ONNX form"):
            solve_triangular(factor, right, **odd)
    with pytest.raises(UsageError, match="over 65 elements"):
        solve_triangular(torch.eye(65), torch.ones(65, 1), upper=False)
