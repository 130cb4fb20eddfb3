"""Markov chains held to their proofs: reversal, volume, the law they leave, and known answers."""

import math

import numpy as np
import pytest
import torch
from helpers import noise
from scipy import stats

from aevb.errors import UsageError
from aevb.mcmc import (
    HMC,
    DualAveraging,
    Gibbs,
    Metropolis,
    StepNoise,
    effective_sample_size,
    hamiltonian,
    r_hat,
)

COVARIANCE = torch.tensor([[1.0, 0.8], [0.8, 2.0]], dtype=torch.float64)
MEAN = torch.tensor([1.0, -2.0], dtype=torch.float64)
PRECISION = torch.linalg.inv(COVARIANCE)


def gaussian(z):
    return -0.5 * ((z - MEAN) @ PRECISION * (z - MEAN)).sum(-1)


def walk(log_density, chains=4000, steps=30, size=0.6, hmc=HMC, spread=0.0):
    """Chains that begin at draws of the law N(0, spread) and their places after some steps."""
    rng = np.random.default_rng(0)
    algorithm = hmc(log_density)
    state = algorithm.init(torch.from_numpy(spread * rng.standard_normal((chains, 2))))
    for _ in range(steps):
        momentum = torch.from_numpy(rng.standard_normal((chains, 2)))
        chance = torch.from_numpy(rng.random(chains))
        state, _ = algorithm.step(state, momentum, chance, torch.full((chains,), size).double())
    return state.z.numpy()


def test_a_trajectory_run_backwards_ends_where_it_began():
    hmc = HMC(gaussian, leapfrogs=7)
    start, momentum = hmc.init(noise((5, 2))), noise((5, 2), seed=1)
    size = torch.full((5,), 0.3).double()
    end, last = hmc.leapfrog(start, momentum, size)
    back, first = hmc.leapfrog(end, -last, size)
    assert torch.allclose(back.z, start.z, atol=1e-12)
    assert torch.allclose(first, -momentum, atol=1e-12)


def test_a_trajectory_preserves_volume():
    hmc = HMC(lambda z: -z.pow(4).sum(-1), leapfrogs=3)

    def flow(both):
        # through the gradient written out, so that it can be differentiated again
        z, p, e = both[:2], both[2:], 0.2
        for _ in range(3):
            p = p - 0.5 * e * 4 * z**3
            z = z + e * p
            p = p - 0.5 * e * 4 * z**3
        return torch.cat([z, p])

    start = noise((4,))
    end, last = hmc.leapfrog(
        hmc.init(start[None, :2]), start[None, 2:], torch.tensor([0.2]).double()
    )
    assert torch.allclose(flow(start), torch.cat([end.z[0], last[0]]), atol=1e-12)
    jacobian = torch.autograd.functional.jacobian(flow, start)
    assert abs(float(torch.linalg.det(jacobian)) - 1) < 1e-10


def test_the_energy_error_falls_with_the_square_of_the_step():
    momentum, start = noise((200, 2), seed=1), noise((200, 2))

    def error(size, leapfrogs):
        hmc = HMC(gaussian, leapfrogs)
        begin = hmc.init(start)
        end, last = hmc.leapfrog(begin, momentum, torch.full((200,), size).double())
        change = end.log_density - begin.log_density
        change = change - 0.5 * (last.square() - momentum.square()).sum(-1)
        return float(change.abs().mean())

    assert 3.5 < error(0.2, 5) / error(0.1, 10) < 4.5


def test_the_law_is_left_as_it_is():
    z = walk(gaussian)
    for k in range(2):
        law = stats.norm(float(MEAN[k]), float(COVARIANCE[k, k]) ** 0.5)
        assert stats.kstest(z[:, k], law.cdf).pvalue > 1e-3
    assert np.allclose(np.cov(z.T), COVARIANCE, atol=0.15)


def test_accepting_everything_would_be_caught():
    class Greedy(HMC):
        def step(self, state, momentum, chance, step_size):
            return super().step(state, momentum, torch.zeros_like(chance), step_size)

    z = walk(gaussian, size=1.1, hmc=Greedy)
    assert not np.allclose(np.cov(z.T), COVARIANCE, atol=0.15)
    assert np.allclose(np.cov(walk(gaussian, size=1.1).T), COVARIANCE, atol=0.15)


def test_chains_do_not_mix_with_one_another():
    few, many = walk(gaussian, chains=3, steps=2), walk(gaussian, chains=3, steps=2)
    assert (few == many).all()
    hmc = HMC(gaussian)
    state = hmc.init(noise((2, 2)))
    far = hmc.init(torch.cat([state.z[:1], torch.full((1, 2), 50.0).double()]))
    size, chance, momentum = torch.full((2,), 0.3).double(), torch.zeros(2), noise((2, 2), seed=2)
    one, _ = hmc.step(state, momentum, chance, size)
    other, _ = hmc.step(far, momentum, chance, size)
    assert torch.equal(one.z[0], other.z[0])


def test_a_step_off_the_map_is_refused():
    hmc = HMC(lambda z: torch.where(z.sum(-1) > 0, -torch.inf, -z.square().sum(-1)))
    state = hmc.init(torch.full((1, 2), -1.0))
    size, chance = torch.full((1,), 1.0), torch.zeros(1)
    after, probability = hmc.step(state, torch.full((1, 2), 100.0), chance, size)
    assert torch.equal(after.z, state.z)
    assert not probability.any()


def test_a_target_is_not_asked_about_what_is_no_number():
    law = torch.distributions.Normal(torch.zeros(2).double(), 1.0, validate_args=True)
    hmc = HMC(lambda z: law.log_prob(z).sum(-1) - z.pow(4).sum(-1), leapfrogs=20)
    state = hmc.init(noise((3, 2)))
    size = torch.tensor([0.01, 1e3, 1e160]).double()
    after, probability = hmc.step(state, noise((3, 2), seed=1), torch.full((3,), 0.5), size)
    assert torch.equal(after.z[1:], state.z[1:])
    assert probability[0] > 0.9
    assert not probability[1:].any()


# -- the three kernels against known targets, within five errors that the chains' worth gives ------


def agrees(draws, truth, f=lambda z: z):
    """Whether the mean of f over draws (T, C, D) lies within five errors of the truth, and these
    are small beside the deviation."""
    values = f(torch.as_tensor(draws))
    deviation = values.flatten(0, 1).std(0)
    error = deviation / effective_sample_size(values, ranked=False).sqrt()
    assert (error < 0.1 * deviation).all()
    found = values.flatten(0, 1).mean(0)
    assert ((found - torch.as_tensor(truth)).abs() < 5 * error).all()


def draws_of_hmc(log_density, start, scale, burn_in=100, steps=800, leapfrogs=5):
    rng = np.random.default_rng(7)
    lead = start.shape[:-1]

    def noises(t):
        uniforms = (torch.from_numpy(rng.random(lead)) for _ in range(2))
        return StepNoise(torch.from_numpy(rng.standard_normal(start.shape)), *uniforms)

    hmc = HMC(log_density, leapfrogs)
    walk = hamiltonian(hmc, start, noises, burn_in=burn_in, steps=steps, scale=scale)
    return torch.stack([state.z for state, _ in walk])


def draws_of_metropolis(log_density, start, scale, burn_in=300, steps=6000):
    rng = np.random.default_rng(8)
    walk, kept = Metropolis(log_density), []
    point = walk.init(start)
    for t in range(burn_in + steps):
        e, chance = rng.standard_normal(start.shape), rng.random(start.shape[:-1])
        point, _ = walk.step(point, torch.from_numpy(e), torch.from_numpy(chance), scale)
        if t >= burn_in:
            kept.append(point.z)
    return torch.stack(kept)


BAD = torch.tensor([[1e-4, 6e-3], [6e-3, 1.0]], dtype=torch.float64)
"""A covariance with deviations 0.01 and 1, and a correlation of 0.6."""


def badly_scaled(z):
    off = z - MEAN
    return -0.5 * (off @ torch.linalg.inv(BAD) * off).sum(-1)


SCALES = BAD.diagonal().sqrt()


@pytest.mark.parametrize(
    "draw",
    [
        lambda start: draws_of_hmc(badly_scaled, start, SCALES),
        lambda start: draws_of_metropolis(badly_scaled, start, 1.5 * SCALES.expand_as(start)),
    ],
    ids=["hmc", "metropolis"],
)
def test_a_gaussian_of_bad_scales_is_reproduced(draw):
    draws = draw(MEAN + 2 * SCALES * noise((6, 2)))
    agrees(draws, MEAN)
    agrees(draws, torch.cat([BAD[0], BAD[1, 1:]]), lambda z: _products(z - MEAN))
    assert (r_hat(draws) < 1.02).all()


def _products(off):
    return torch.stack([off[..., 0] ** 2, off[..., 0] * off[..., 1], off[..., 1] ** 2], -1)


def banana(z):
    """z_1 from N(0, 1), z_2 from N(z_1^2 / 2, 1)."""
    return -0.5 * z[..., 0] ** 2 - 0.5 * (z[..., 1] - z[..., 0] ** 2 / 2) ** 2


def heavy(z):
    """Student's t with 6 degrees of freedom, a law for each of two coordinates."""
    return -3.5 * torch.log1p(z**2 / 6).sum(-1)


def valley(z):
    """One mode of 0.9 N(0, I) + 0.1 N(60, I): the other is too far to be seen."""
    far = math.log(0.1) - 0.5 * (z - 60).square().sum(-1)
    return torch.logaddexp(math.log(0.9) - 0.5 * z.square().sum(-1), far)


TARGETS = {
    "banana": (banana, lambda z: torch.stack([z[..., 1], z[..., 0] ** 2, z[..., 0] ** 4], -1)),
    "student": (heavy, lambda z: torch.cat([z, z.abs(), (z > 1.5).double()], -1)),
    "mode": (valley, lambda z: torch.cat([z, z**2], -1)),
}
one = stats.t(6)
TRUTHS = {
    "banana": [0.5, 1.0, 3.0],
    "student": [0, 0, *[one.expect(abs)] * 2, *[one.sf(1.5)] * 2],
    "mode": [0, 0, 1, 1],
}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("kernel", ["hmc", "metropolis"])
def test_other_known_targets_are_reproduced(kernel, name):
    target, f = TARGETS[name]
    start, ones = noise((12, 2), seed=4), torch.ones(2).double()
    if kernel == "hmc":
        draws = draws_of_hmc(target, start, ones, steps=1500)
    else:
        draws = draws_of_metropolis(target, start, ones.expand_as(start), steps=6000)
    agrees(draws, TRUTHS[name], f)


def test_a_bivariate_normal_is_reproduced_by_its_conditionals():
    rho = float(COVARIANCE[0, 1] / COVARIANCE.diagonal().prod().sqrt())

    def conditional(one, other):
        slope = COVARIANCE[one, other] / COVARIANCE[other, other]
        deviation = (COVARIANCE[one, one] * (1 - rho**2)).sqrt()

        def draw(z, e):
            z = z.clone()
            z[..., one] = MEAN[one] + slope * (z[..., other] - MEAN[other]) + deviation * e
            return z

        return draw

    gibbs = Gibbs([conditional(0, 1), conditional(1, 0)])
    z, kept = gibbs.init(noise((6, 2))), []
    for t in range(1000):
        z = gibbs.step(z, list(noise((2, 6), seed=100 + t)))
        kept.append(z)
    draws = torch.stack(kept)[20:]
    agrees(draws, MEAN)
    covariance = torch.stack([COVARIANCE[0, 0], COVARIANCE[0, 1], COVARIANCE[1, 1]])
    agrees(draws, covariance, lambda z: _products(z - MEAN))
    # Each coordinate alone is an autoregression with coefficient rho^2.
    worth = effective_sample_size(draws).numpy() / draws[..., 0].numel()
    assert np.allclose(worth, (1 - rho**2) / (1 + rho**2), rtol=0.25)
    with pytest.raises(ValueError, match="zip"):
        gibbs.step(z, [torch.zeros(6)])


def test_a_step_size_for_each_coordinate_is_a_change_of_scale():
    scale = torch.tensor([0.3, 2.0]).double()
    start, momentum = noise((5, 2)), noise((5, 2), seed=1)
    size, chance = torch.full((5,), 0.4).double(), torch.zeros(5)
    scaled, other = HMC(gaussian).step(
        HMC(gaussian).init(start), momentum, chance, size.unsqueeze(-1) * scale
    )
    plain = HMC(lambda u: gaussian(u * scale))
    expected, probability = plain.step(plain.init(start / scale), momentum, chance, size)
    assert torch.allclose(scaled.z, expected.z * scale, atol=1e-12)
    assert torch.allclose(other, probability, atol=1e-12)
    # as long as all are alike it is the same as one for each chain
    alike, _ = HMC(gaussian).step(
        HMC(gaussian).init(start), momentum, chance, size.unsqueeze(-1).expand(5, 2)
    )
    one, _ = HMC(gaussian).step(HMC(gaussian).init(start), momentum, chance, size)
    assert torch.equal(alike.z, one.z)


def test_kernels_take_chains_and_data_at_once():
    """Each of (S, N) chains walks as it would alone, on the law of its own datum."""
    centers = torch.tensor([-3.0, 0.0, 5.0]).double().unsqueeze(-1)
    start, e, chance = noise((4, 3, 2)), noise((4, 3, 2), seed=1), torch.full((4, 3), 0.5)
    size = torch.full((4, 3), 0.7).double()
    for kernel in (HMC, Metropolis):
        together = kernel(lambda z: -0.5 * (z - centers).square().sum(-1))
        state, probability = together.step(together.init(start), e, chance, size)
        for n in range(3):
            alone = kernel(lambda z, n=n: -0.5 * (z - centers[n]).square().sum(-1))
            own, p = alone.step(alone.init(start[:, n]), e[:, n], chance[:, n], size[:, n])
            assert torch.allclose(state.z[:, n], own.z, atol=1e-12)
            assert torch.allclose(probability[:, n], p, atol=1e-12)


def test_metropolis_that_takes_everything_would_be_caught(monkeypatch):
    step = Metropolis.step
    monkeypatch.setattr(
        Metropolis, "step", lambda s, p, e, chance, scale: step(s, p, e, 0 * chance, scale)
    )
    start = noise((6, 2), seed=4)
    draws = draws_of_metropolis(gaussian, start, torch.ones(6).double(), steps=3000)
    with pytest.raises(AssertionError):
        agrees(draws, MEAN)


# -- step sizes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("target", [0.6, 0.8, 0.9])
def test_the_step_size_finds_its_target(target, wrong):
    """From a size a hundred times too small or large, by the acceptance of four chains at once."""
    rng = np.random.default_rng(0)
    hmc, search = HMC(gaussian), DualAveraging(target)
    state, size = hmc.init(noise((4, 200, 2))), search.init(torch.full((200,), wrong).double())
    found = []
    for t in range(120):
        momentum, chance, shorten = noise((4, 200, 2), seed=t), *rng.random((2, 4, 200))
        now = (size.now if t < 80 else size.averaged) * torch.from_numpy(1 - 0.5 * shorten)
        state, probability = hmc.step(state, momentum, torch.from_numpy(chance), now)
        if t < 80:
            size = search.step(size, probability.mean(0))
        else:
            found.append(float(probability.mean()))
    assert abs(np.mean(found) - target) < 0.07


@pytest.mark.parametrize("wrong", [0.01, 1.0, 100.0])
def test_chains_find_their_step_while_burning_in(wrong):
    rng, start = np.random.default_rng(1), noise((4, 50, 2))

    def noises(t):
        uniforms = (torch.from_numpy(rng.random((4, 50))) for _ in range(2))
        return StepNoise(torch.from_numpy(rng.standard_normal((4, 50, 2))), *uniforms)

    scale = wrong * torch.ones(50, 2).double()
    walk = hamiltonian(HMC(gaussian), start, noises, burn_in=100, steps=50, scale=scale)
    found = [float(probability.mean()) for _, probability in walk]
    assert len(found) == 50
    assert 0.83 < np.mean(found) < 0.96


# -- diagnostics ----------------------------------------------------------------------------------


def autoregression(rho, steps=2000, chains=4, repetitions=50, seed=0):
    """y_t = rho y_{t-1} + sqrt(1 - rho^2) e_t from its stationary law, (T, C, R)."""
    e = np.random.default_rng(seed).standard_normal((steps, chains, repetitions))
    y = [e[0]]
    for t in range(1, steps):
        y.append(rho * y[-1] + math.sqrt(1 - rho**2) * e[t])
    return torch.from_numpy(np.stack(y))


def numpy_ranked(y):
    """Normal scores of the ranks among all draws (Vehtari et al., equation 14)."""
    return stats.norm.ppf((stats.rankdata(y).reshape(y.shape) - 3 / 8) / (y.size + 1 / 4))


def numpy_spread(y):
    """Variances within chains s_m^2, W, var+ of (N, M) draws (equations 1 to 3)."""
    n, m = y.shape
    own = ((y - y.mean(0)) ** 2).sum(0) / (n - 1)
    between = n / (m - 1) * ((y.mean(0) - y.mean()) ** 2).sum()
    return own, own.mean(), (n - 1) / n * own.mean() + between / n


def numpy_r_hat(y):
    """Equation 4 of the normal scores and of those of distances to a median, the larger."""
    folded = abs(y - np.percentile(y, 50, method="lower"))
    found = []
    for scores in (numpy_ranked(y), numpy_ranked(folded)):
        _, within, total = numpy_spread(scores)
        found.append(math.sqrt(total / within))
    return max(found)


def numpy_worth(y):
    """M N / tau with rho_t of equation 10, Geyer's initial monotone sequence, and their bound."""
    n, m = y.shape
    _, within, total = numpy_spread(y)
    off = y - y.mean(0)
    rho = [1.0]
    for t in range(1, n):
        common = (off[: n - t] * off[t:]).sum(0) / n  # s_m^2 rho_{t,m}
        rho.append(1 - (within - common.mean()) / total)
    tau, least = -1.0, math.inf
    for k in range(n // 2):
        pair = rho[2 * k] + rho[2 * k + 1]
        if pair <= 0:
            break
        least = min(least, pair)
        tau += 2 * least
    return m * n / max(tau, 1 / math.log10(m * n))


DRAWN = {
    "mixed": lambda y: y,
    "alternating": lambda y: y * (-1) ** np.arange(len(y))[:, None],
    "apart": lambda y: np.add(y, [0, 1, 3]),
    "of other scales": lambda y: y * [1, 1, 6],
    "of few values": np.round,
}


@pytest.mark.parametrize("steps", [40, 61])
@pytest.mark.parametrize("name", DRAWN)
def test_r_hat_and_worth_are_what_vehtari_and_others_define(name, steps):
    y = DRAWN[name](autoregression(0.6, steps, chains=3, repetitions=1).numpy()[..., 0])
    half = steps // 2
    halves = np.concatenate([y[:half], y[-half:]], axis=1)
    draws = torch.from_numpy(y)
    worth, plain = (effective_sample_size(draws, ranked=ranked) for ranked in (True, False))
    assert worth.dtype == torch.float64
    assert float(r_hat(draws)) == pytest.approx(numpy_r_hat(halves), rel=1e-10)
    assert float(worth) == pytest.approx(numpy_worth(numpy_ranked(halves)), rel=1e-10)
    assert float(plain) == pytest.approx(numpy_worth(halves), rel=1e-10)


@pytest.mark.parametrize("rho", [0.9, -0.5])
def test_the_worth_of_an_autoregression_is_known(rho):
    worth = effective_sample_size(autoregression(rho))
    truth = 2000 * 4 * (1 - rho) / (1 + rho)
    assert float(worth.mean()) == pytest.approx(truth, rel=0.06)
    assert float(worth.std()) < 0.25 * truth


def test_the_worth_says_the_error_of_a_mean():
    y = autoregression(0.8, steps=400, repetitions=400)
    error = y.flatten(0, 1).std(0) / effective_sample_size(y, ranked=False).sqrt()
    deviations = y.flatten(0, 1).mean(0) / error
    assert 0.92 < float((deviations.abs() < 2).double().mean()) < 0.98


@pytest.mark.parametrize("kernel", [HMC, Metropolis])
def test_a_density_that_mixes_the_chains_is_refused(kernel):
    for wrong, found in ((lambda z: -z.square().sum(), r"\(\)"), (lambda z: -z, r"\(3, 2\)")):
        with pytest.raises(UsageError, match=f"of shape \\(3,\\) for places of .*found {found}"):
            kernel(wrong).init(torch.zeros(3, 2))


def test_draws_that_never_move_are_worth_one():
    assert effective_sample_size(torch.ones(50, 4, 2)).tolist() == [1, 1]
    assert effective_sample_size(torch.full((50, 4), 0.1), ranked=False) == 1
    assert r_hat(torch.ones(50, 4)) == math.inf


@pytest.mark.parametrize("measure", [r_hat, effective_sample_size])
def test_fewer_than_four_steps_tell_nothing(measure):
    with pytest.raises(UsageError, match="must be at least 4, found 3"):
        measure(torch.ones(3, 4))


STUCK = {
    "stuck": lambda y: torch.cat([y[:, :3], y[:1, 3:].expand_as(y[:, 3:])], 1),
    "other-mean": lambda y: y + torch.tensor([0, 0, 0, 1.0]).reshape(1, 4, 1),
    "other-scale": lambda y: y * torch.tensor([1, 1, 1, 3.0]).reshape(1, 4, 1),
    "drift": lambda y: y + torch.linspace(0, 2, len(y)).reshape(-1, 1, 1),
}


@pytest.mark.parametrize("name", STUCK)
def test_chains_that_disagree_are_flagged(name):
    y = autoregression(0.0, steps=500)
    assert float(r_hat(STUCK[name](y)).min()) > 1.05
    assert float(effective_sample_size(STUCK["other-mean"](y)).max()) < 0.1 * 500 * 4
    # heavy tails do not hide it: the ranks are what is compared
    assert torch.allclose(r_hat(STUCK[name](y).sinh()), r_hat(STUCK[name](y)), atol=0.1)


def test_diagnostics_are_of_each_element_by_itself():
    y = autoregression(0.3, steps=101, repetitions=6).unflatten(-1, (2, 3))
    for f in (r_hat, effective_sample_size, lambda d: effective_sample_size(d, ranked=False)):
        alone = torch.stack([torch.stack([f(y[..., i, j]) for j in range(3)]) for i in range(2)])
        assert torch.allclose(f(y), alone, rtol=1e-9)
    # The order of values is all that counts.
    assert torch.allclose(effective_sample_size(y), effective_sample_size(y.exp()), rtol=1e-9)
    hole = y.clone()
    hole[3, 1, 0, 0] = math.nan
    assert effective_sample_size(hole).isnan().sum() == r_hat(hole).isnan().sum() == 1
