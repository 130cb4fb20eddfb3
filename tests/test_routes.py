"""What the laws over the table do not reach: limits, ends of supports, and where scipy is lost."""

import math

import mpmath
import pytest
import scipy.stats
import torch
from torch import distributions as td

from aevb import distributions as zoo
from aevb.distributions import center, reparameterize, route
from aevb.distributions.combinators import Average
from aevb.distributions.listed import Listed
from aevb.errors import UsageError
from aevb.flows import FlowDistribution, HouseholderMap
from aevb.randomness import Stream, generator


@pytest.fixture(autouse=True)
def _digits():
    with mpmath.workdps(50):
        yield


def double(value, **options):
    return torch.tensor(value, dtype=torch.float64, **options)


def close(found, expected, rtol=1e-12):
    assert abs(float(found) - float(expected)) <= rtol * abs(float(expected))


@pytest.mark.parametrize("offset", [1e-12, -1e-9, 1e-4, 0.2, -0.3])
def test_quantiles_near_the_median_keep_their_digits(offset):
    u = 0.5 + offset
    exact = mpmath.mpf(u)
    close(zoo.Logistic(double(0.0), 1.0).icdf(double(u)), mpmath.log(exact / (1 - exact)))
    tangent = mpmath.tan(mpmath.pi * (exact - mpmath.mpf(1) / 2))
    close(zoo.Cauchy(double(0.0), 1.0).icdf(double(u)), tangent)


@pytest.mark.parametrize("u", [1e-300, 1e-160, 1e-20, 0.3, 1 - 2**-53])
def test_student_of_one_degree_is_cauchy_to_the_ends(u):
    student, cauchy = zoo.StudentT(double(1.0)), zoo.Cauchy(double(0.0), 1.0)
    x = cauchy.icdf(double(u))
    close(student.icdf(double(u)), x)
    close(student.cdf(x), u)


@pytest.mark.parametrize(("df", "u"), [(2.5, 1e-300), (2.5, 1e-200), (9.5, 1e-300)])
def test_far_quantiles_of_student_come_back(df, u):
    """Scipy's are infinite there, or of another sign."""
    law = zoo.StudentT(double(df))
    x = law.icdf(double(u))
    share = df / (df + mpmath.mpf(float(x)) ** 2)
    half = mpmath.betainc(mpmath.mpf(df) / 2, 0.5, 0, share, regularized=True) / 2
    assert x < 0
    close(half, u, 1e-10)
    close(law.cdf(x), u, 1e-10)


@pytest.mark.parametrize("u", [1e-10, 0.3, 0.7, 1 - 1e-6, 1 - 1e-10])
@pytest.mark.parametrize("df", [2.5, 30.0])
def test_slope_of_student_in_its_degrees_is_as_good_in_either_tail(df, u):
    nu = double(df, requires_grad=True)
    law = zoo.StudentT(nu)
    x = law.icdf(double(u)).detach()

    def upper(v):
        share = v / (v + mpmath.mpf(float(x)) ** 2)
        return mpmath.betainc(v / 2, 0.5, 0, share, regularized=True) / 2

    sign = 1 if u < 0.5 else -1
    (slope,) = torch.autograd.grad(law.cdf(x), nu)
    close(slope, sign * mpmath.diff(upper, mpmath.mpf(df)), 1e-8)


@pytest.mark.parametrize("df", [0.05, 3.0, 19.9, 20.1, 1e4, 1e6])
def test_student_density_and_entropy_against_fifty_digits(df):
    law, nu = zoo.StudentT(double(df)), mpmath.mpf(df)
    beta = mpmath.log(mpmath.beta(nu / 2, mpmath.mpf(1) / 2))
    expected = -beta - mpmath.log(nu) / 2 - (nu + 1) / 2 * mpmath.log1p(mpmath.mpf(9) / 4 / nu)
    close(law.log_prob(double(1.5)), expected)
    bend = mpmath.digamma((nu + 1) / 2) - mpmath.digamma(nu / 2)
    close(law.entropy(), (nu + 1) / 2 * bend + mpmath.log(nu) / 2 + beta)


@pytest.mark.parametrize("k", [0.7, 3.0, 49.0, 51.0, 1e3, 1e6])
def test_weibull_variance_where_it_is_a_small_difference(k):
    gamma = mpmath.gamma
    expected = gamma(1 + 2 / mpmath.mpf(k)) - gamma(1 + 1 / mpmath.mpf(k)) ** 2
    close(zoo.Weibull(double(1.0), double(k)).variance, expected, 1e-11)


@pytest.mark.parametrize("high", [1 + 2**-20, 1.1, 2.7, 2.8, 1e6])
def test_reciprocal_variance_where_it_is_a_small_difference(high):
    h = mpmath.mpf(high)
    width = mpmath.log(h)
    expected = (h**2 - 1) / (2 * width) - ((h - 1) / width) ** 2
    close(zoo.Reciprocal(double(1.0), double(high)).variance, expected, 1e-11)


def test_low_rank_density_beside_a_large_factor():
    """Torch takes the small square of 1 + 1e12 as a difference of large ones."""
    factor, diagonal, x = [1e3, -1e3], [1e-6, 1e-6], [500.0, -499.999]
    law = zoo.LowRankMultivariateNormal(
        double([0.0, 0.0]), double(factor)[:, None], double(diagonal)
    )
    covariance = mpmath.matrix(2, 2)
    for i in range(2):
        for j in range(2):
            own = mpmath.mpf(diagonal[i]) if i == j else 0
            covariance[i, j] = mpmath.mpf(factor[i]) * factor[j] + own
    y = mpmath.matrix(x)
    square = (y.T * mpmath.inverse(covariance) * y)[0]
    expected = -(square + mpmath.log(mpmath.det(covariance))) / 2 - mpmath.log(2 * mpmath.pi)
    close(law.log_prob(double(x)), expected, 1e-10)


def test_low_rank_of_no_number_is_refused():
    with pytest.raises(ValueError, match="must be finite"):
        zoo.LowRankMultivariateNormal(torch.zeros(2), torch.full((2, 1), math.nan), torch.ones(2))


def test_elliptical_at_its_center_and_where_the_radius_has_no_mean():
    loc = double([1.0, -2.0])
    eye = torch.eye(2, dtype=torch.float64)
    gaussian = zoo.Elliptical(loc, eye, zoo.Rayleigh(double(1.0)))
    assert abs(float(gaussian.log_prob(loc)) + math.log(2 * math.pi)) < 1e-12
    assert zoo.Elliptical(loc, eye, zoo.Pareto(double(1.0), double(0.5))).mean.isnan().all()


def test_elliptical_on_the_line_is_two_sided():
    law = zoo.Elliptical(double([0.0]), double([[2.0]]), zoo.Exponential(double(1.0)))
    x = double([[-3.0], [0.5]])
    expected = zoo.Laplace(double(0.0), double(2.0)).log_prob(x.squeeze(-1))
    assert torch.allclose(law.log_prob(x), expected, rtol=1e-14)


def test_elliptical_takes_a_radius_of_several_noises_and_of_torch():
    eye = torch.eye(2, dtype=torch.float64)
    law = zoo.Elliptical(double([[0.0, 0.0]] * 3), eye, zoo.Erlang(2, double(1.0)))
    assert law.standard.shape == (4,)
    assert law.rsample((5,)).shape == (5, 3, 2)
    law = zoo.Elliptical(double([0.0, 0.0]), eye, td.Exponential(double(1.0)))
    r = law.transform(law.noise((20_000,), generator(0, Stream.NOISE)))
    assert scipy.stats.kstest(r.norm(dim=-1).numpy(), scipy.stats.expon.cdf).pvalue > 1e-5


@pytest.mark.parametrize(
    ("loc", "scale_tril", "radial", "says"),
    [
        (torch.zeros(2), torch.eye(2), zoo.Normal(0.0, 1.0), "positive numbers"),
        (torch.zeros(2), torch.eye(3), zoo.Rayleigh(1.0), r"expected loc \(\*batch, D\)"),
        (torch.zeros(2), -torch.eye(2), zoo.Rayleigh(1.0), "scale_tril"),
    ],
)
def test_what_makes_no_elliptical_law_is_refused(loc, scale_tril, radial, says):
    with pytest.raises(ValueError, match=says):
        zoo.Elliptical(loc, scale_tril, radial)


def test_triangular_with_its_mode_at_an_end():
    low, mode = double([0.0, 0.0], requires_grad=True), double([0.0, 1.0], requires_grad=True)
    law = zoo.Triangular(low, double([1.0, 1.0]), mode)
    ends = double([[0.0], [1.0]])
    assert law.log_prob(ends).exp().tolist() == [[2.0, 0.0], [0.0, 2.0]]
    assert law.cdf(ends).tolist() == [[0.0, 0.0], [1.0, 1.0]]
    z = law.transform(law.noise((50,), generator(3, Stream.NOISE)))
    for gradient in torch.autograd.grad(z.sum(), (low, mode)):
        assert gradient.isfinite().all()


def test_draws_that_round_to_the_end_have_a_density():
    last = torch.tensor(1 - 2**-24)
    for law in (zoo.Uniform(torch.tensor(1.0), 2.0), zoo.Reciprocal(torch.tensor(1.0), 2.0)):
        z = law.transform(last)
        assert z <= 2
        assert law.log_prob(z).isfinite()


def test_erlang_of_several_shapes_in_one_batch():
    shapes = torch.tensor([1, 4, 30])
    law = zoo.Erlang(shapes, double(2.0))
    z = law.transform(law.noise((20_000,), generator(1, Stream.NOISE))).numpy()
    for k, draws in zip(shapes.tolist(), z.T, strict=True):
        assert scipy.stats.kstest(draws, scipy.stats.gamma(k, scale=0.5).cdf).pvalue > 1e-5
    assert law.log_prob(double(0.0)).tolist() == [math.log(2), -math.inf, -math.inf]
    with pytest.raises(ValueError, match="shape"):
        zoo.Erlang(double(2.5), double(1.0))


def test_gompertz_mean_of_any_concentration_and_no_variance():
    for c in (1e-6, 0.3, 49.9, 50.1, 1e6):
        expected = mpmath.exp(c) * mpmath.e1(c)
        close(zoo.Gompertz(double(c), double(1.0)).mean, expected)
    with pytest.raises(NotImplementedError):
        _ = zoo.Gompertz(double(1.0), double(1.0)).variance


@pytest.mark.parametrize("c", [0.5, 1e3, 1e5, 1e7])
def test_the_slope_of_gompertz_mean_keeps_its_digits_in_single_precision(c):
    x = torch.tensor(c, requires_grad=True)
    (slope,) = torch.autograd.grad(zoo.Gompertz(x, 1.0).mean, x)
    with mpmath.workdps(30):
        close(slope, mpmath.exp(c) * mpmath.e1(c) - 1 / mpmath.mpf(c), 1e-5)


def test_the_center_of_torchs_student_without_a_mean_is_its_median():
    assert float(center(td.StudentT(torch.tensor(1.0), 3.0))) == pytest.approx(3.0, abs=1e-6)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (td.Exponential, zoo.Exponential),
        (td.Cauchy, zoo.Cauchy),
        (td.HalfCauchy, zoo.HalfCauchy),
        (td.HalfNormal, zoo.HalfNormal),
        (td.Pareto, zoo.Pareto),
        (td.Weibull, zoo.Weibull),
        (td.Gumbel, zoo.Gumbel),
        (td.Laplace, zoo.Laplace),
        (td.StudentT, zoo.StudentT),
        (td.Uniform, zoo.Uniform),
    ],
)
def test_objects_of_torch_take_these_routes(theirs, ours):
    count = len(ours.arg_constraints) if ours is not zoo.Uniform else 2
    given = [double([v]) for v in (0.5, 1.5, 2.5)[:count]]
    q = ours(*given)
    noise = q.noise((3,), generator(2, Stream.NOISE))
    z = reparameterize(theirs(*given), noise)
    assert torch.equal(z, q.transform(noise))
    assert torch.allclose(theirs(*given).log_prob(z), q.log_prob(z), rtol=1e-9)


def test_torch_mixtures_say_whether_their_draws_have_a_gradient():
    choice, df = td.Categorical(torch.ones(2)), double([3.0, 4.0])
    with pytest.raises(UsageError, match="mixture of StudentT is known: its draws are by sample"):
        route(td.MixtureSameFamily(choice, td.StudentT(df)))
    assert route(td.MixtureSameFamily(choice, td.Gumbel(df, df))).noise.differentiable


def test_the_route_through_independent_of_independent():
    once = td.Independent(td.Normal(torch.zeros(4, 3, 2), 1.0), 1)
    assert route(td.Independent(once, 1)).noise.shape == (3, 2)


def test_second_derivative_of_student_s_distribution_function_in_its_degrees_of_freedom():
    def truth(df, x):
        return 1 - mpmath.betainc(df / 2, 0.5, 0, df / (df + x * x), regularized=True) / 2

    df = double(3.0).requires_grad_()
    (slope,) = torch.autograd.grad(zoo.StudentT(df).cdf(double(0.7)), df, create_graph=True)
    (bend,) = torch.autograd.grad(slope, df)
    assert float(bend) == pytest.approx(float(mpmath.diff(lambda v: truth(v, 0.7), 3, 2)), rel=1e-4)


@pytest.mark.parametrize("law", [zoo.Beta, zoo.FisherSnedecor])
def test_distribution_functions_by_scipy_are_mapped_over_a_batch(law):
    first, second, z = double([0.5, 2.0, 30.0]), double(3.0), double(0.4)
    each = torch.func.vmap(lambda a: law(a, second, validate_args=False).cdf(z))(first)
    assert torch.equal(each, law(first, second).cdf(z))


@pytest.mark.parametrize(
    "law",
    [
        zoo.Mixture(td.Categorical(torch.ones(2)), zoo.Cauchy(double([3.0, 3.0]), 1.0)),
        Average([zoo.Cauchy(double([3.0]), 1.0), zoo.Cauchy(double([3.0]), 1.0)]),
        zoo.Elliptical(double([3.0, 3.0]), torch.eye(2).double(), zoo.HalfCauchy(double(1.0))),
    ],
    ids=lambda law: type(law).__name__,
)
def test_a_law_without_mean_or_quantile_has_the_median_of_draws_for_its_center(law):
    assert torch.allclose(center(law), double(3.0), atol=0.5)


def test_an_average_draws_by_itself():
    law = Average([zoo.Normal(double([0.0]), 1.0), zoo.Laplace(double([0.0]), 1.0)])
    assert law.noise((3,), generator(1, Stream.NOISE)).shape[0] == 3
    assert law.sample((3,)).shape == (3, 1)


def a_normal(z=0.0):
    return td.Independent(zoo.Normal(z + torch.zeros(2), torch.tensor([1.0, 2.0])), 1)


REMEMBERING = {
    "flow": lambda: FlowDistribution(a_normal(), [HouseholderMap(torch.tensor([1.0, 3.0]))]),
    "chain": lambda: zoo.Chain(a_normal(), [a_normal], [2, 2]),
    "list": lambda: Listed(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([0.3, 0.7]).log()),
}


@pytest.mark.parametrize("quiet", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", REMEMBERING)
def test_a_draw_that_is_written_to_has_the_density_of_what_it_is_now(name, quiet):
    with quiet():
        law = REMEMBERING[name]()
        z = law.sample((50,))
        assert torch.allclose(law.log_prob(z), law.log_prob(z.clone()), atol=1e-5)
        z.copy_(z.flip(0))
        expected = law.log_prob(z.clone())
        assert torch.equal(law.log_prob(z), expected)
