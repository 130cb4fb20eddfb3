"""Hamiltonian Monte Carlo, held to its proof: reversal, volume, and the law it leaves."""

import numpy as np
import pytest
import torch
from helpers import noise
from scipy import stats

from aevb.mcmc import HMC, adapted

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


@pytest.mark.parametrize("target", [0.6, 0.9])
def test_the_step_size_finds_its_target(target):
    rng = np.random.default_rng(0)
    hmc = HMC(gaussian)
    state, size = hmc.init(noise((500, 2))), torch.full((500,), 0.01).double()
    for t in range(200):
        momentum, chance = noise((500, 2), seed=t), torch.from_numpy(rng.random(500))
        state, probability = hmc.step(state, momentum, chance, size)
        size = adapted(size, probability, t, target)
    assert abs(float(probability.mean()) - target) < 0.1
