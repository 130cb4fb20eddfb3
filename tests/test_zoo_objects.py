"""Every distribution of the zoo as an object: kept, printed, expanded, cast, routed, compiled."""

import copy
import io
import pickle

import pytest
import torch
from helpers import anew, needs_compiler, seeded
from torch.distributions import Distribution, Independent
from zoo.table import ENTRIES, LINES, build, draws, names, tensors

from aevb import distributions
from aevb.distributions import (
    Mixture,
    RelaxedBernoulli,
    RelaxedOneHotCategorical,
    Reparameterized,
    reparameterize,
    route,
)
from aevb.randomness import Stream, generator

RELAXED = RelaxedBernoulli | RelaxedOneHotCategorical
DRAWN = names(lambda e: e.reparameterized)


GIVEN = names(lambda e: e.parameters)


def kept(d):
    file = io.BytesIO()
    torch.save(d, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    return copy.deepcopy(d), pickle.loads(pickle.dumps(d)), loaded


@pytest.mark.parametrize("name", ENTRIES)
def test_copies_and_files_keep_the_law(name):
    d, z = build(ENTRIES[name]), draws(name)[:20]
    for again in kept(d):
        assert type(again) is type(d)
        assert torch.equal(again.log_prob(z), d.log_prob(z))
        assert torch.equal(*(seeded(lambda o=o: o.sample((3,)), 1) for o in (again, d)))


@pytest.mark.parametrize("name", ENTRIES)
def test_draws_are_fresh_and_follow_torchs_seed(name):
    law, made = build(ENTRIES[name]), []
    with torch.random.fork_rng(devices=[]):
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            made.append([law.sample((3000,)) for _ in range(2)])
    assert all(torch.equal(a, b) for a, b in zip(made[0], made[1], strict=True))
    assert not torch.equal(*made[0])
    assert not torch.equal(made[0][0], made[2][0])


@pytest.mark.parametrize("name", ENTRIES)
def test_printing_names_the_class_and_its_parameters(name):
    d = build(ENTRIES[name])
    text = repr(d)
    assert text.startswith(type(d).__name__ + "(")
    given = [k for k in d.arg_constraints if k in ENTRIES[name].parameters]
    assert all(f"{k}: " in text for k in given)


@pytest.mark.parametrize("name", GIVEN)
def test_shapes_broadcast_and_expand(name):
    """sample_shape + batch + event; parameters of (3, 1) and (2,) broadcast to a batch (3, 2).

    Torch's mixtures and relaxed laws take the batch of one parameter, and do not broadcast.
    """
    entry = ENTRIES[name]
    one = build(entry)
    if len(entry.parameters) == 1 or isinstance(one, Mixture | RELAXED):
        given = tensors(entry, lead=(3, 2))
    else:
        first = next(iter(entry.parameters))
        given = tensors(entry, lead=(2,)) | {first: tensors(entry, lead=(3, 1))[first]}
    d = entry.make(**{k: v.detach() for k, v in given.items()})
    assert one.batch_shape == ()
    assert d.batch_shape == (3, 2)
    assert d.event_shape == one.event_shape == one.sample().shape
    z = seeded(lambda: d.sample((5,)), 1)
    assert z.shape == (5, 3, 2, *d.event_shape)
    assert d.log_prob(z).shape == (5, 3, 2)
    assert torch.allclose(d.log_prob(z), one.log_prob(z), rtol=1e-12, atol=1e-12)
    wide = d.expand((4, 3, 2))
    assert type(wide) is type(d)
    assert wide.batch_shape == (4, 3, 2)
    z = seeded(lambda: wide.sample((5,)), 1)
    assert z.shape == (5, 4, 3, 2, *d.event_shape)
    assert torch.allclose(wide.log_prob(z), one.log_prob(z), rtol=1e-12, atol=1e-12)
    for moment in {"mean", "variance"} - entry.no:
        assert getattr(wide, moment).shape == (4, 3, 2, *d.event_shape)
    if "entropy" not in entry.no:
        assert wide.entropy().shape == (4, 3, 2)


@pytest.mark.parametrize("name", GIVEN)
def test_single_precision_stays_and_is_close_to_double(name):
    entry = ENTRIES[name]
    single = build(entry, dtype=torch.float32)
    z = seeded(lambda: single.sample((500,)), 1)
    log_density = single.log_prob(z)
    assert log_density.dtype == torch.float32
    if entry.kind != "discrete":
        assert z.dtype == torch.float32
    given = {k: v.detach().double() for k, v in tensors(entry, dtype=torch.float32).items()}
    double = entry.make(**given)
    wide = z.double() if z.is_floating_point() else z
    if entry.kind == "multivariate":
        wide = nearest(double, wide)
    expected = double.log_prob(wide)
    assert torch.allclose(log_density.double(), expected, rtol=2e-4, atol=2e-4)
    for moment in {"mean", "variance"} - entry.no:
        value = getattr(single, moment)
        assert value.dtype == torch.float32
        assert torch.allclose(
            value.double(), getattr(double, moment), rtol=1e-4, atol=1e-5, equal_nan=True
        )
    if entry.reparameterized:
        noise = single.noise((3,), generator(0, Stream.NOISE))
        assert noise.dtype == single.transform(noise).dtype == torch.float32


def nearest(double, z):
    """Points of a simplex or a sphere, which single precision misses by its rounding."""
    try:
        double.log_prob(z)
    except ValueError:
        unit = torch.allclose(z.square().sum(-1), z.new_ones(()), atol=1e-5)
        return z / (z.norm(dim=-1, keepdim=True) if unit else z.sum(-1, keepdim=True))
    return z


@pytest.mark.parametrize("name", DRAWN)
def test_noise_has_no_parameters_and_its_map_makes_the_draws(name):
    entry = ENTRIES[name]
    d = build(entry)
    assert isinstance(d, Reparameterized)
    assert type(d).route in ("inverse CDF", "location-scale", "composition", "implicit")
    first, again = (d.noise((3,), generator(1, Stream.NOISE)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == (3, *d.standard.shape)
    given = tensors(entry)
    assert not entry.make(**given).noise((3,), generator(1, Stream.NOISE)).requires_grad
    assert entry.make(**given).rsample((3,)).requires_grad == bool(given)
    assert d.transform(first).shape == (3, *d.event_shape)
    assert not d.sample((3,)).requires_grad
    assert d.rsample((3,)).shape == (3, *d.event_shape)


@pytest.mark.parametrize("name", DRAWN)
def test_the_route_through_independent(name):
    base = build(ENTRIES[name]).expand((4, 3))
    d = Independent(base, 1)
    way = route(d)
    noise = base.noise((2,), generator(1, Stream.NOISE))
    assert noise.shape == (2, 4, *way.noise.shape)
    assert torch.equal(reparameterize(d, noise), base.transform(noise))


@pytest.mark.parametrize("name", ENTRIES)
def test_arguments_outside_their_domain_are_refused(name):
    entry = ENTRIES[name]
    for key in entry.parameters:
        given = {k: v.detach() for k, v in tensors(entry).items()}
        given[key] = torch.full_like(given[key], torch.nan)
        with pytest.raises((ValueError, torch.linalg.LinAlgError)):
            entry.make(**given)


@pytest.mark.slow
@needs_compiler
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("name", DRAWN)
def test_map_and_density_are_one_graph(name):
    entry = ENTRIES[name]
    noise = build(entry).noise((3,), generator(1, Stream.NOISE))
    Distribution.set_default_validate_args(False)
    try:

        def both(given, noise):
            d = entry.make(**given)
            z = d.transform(noise)
            return z, d.log_prob(z)

        graph = torch.compile(anew(both, name), fullgraph=True, backend="aot_eager")
        given = {k: v.detach() for k, v in tensors(entry).items()}
        d = entry.make(**given)
        z, log_density = graph(given, noise)
        assert torch.allclose(z, d.transform(noise), rtol=1e-12)
        assert torch.allclose(log_density, d.log_prob(d.transform(noise)), rtol=1e-12, atol=1e-12)
    finally:
        Distribution.set_default_validate_args(True)


ONE_HOT = {"OneHotCategoricalStraightThrough", "OneHotCategoricals"}
OF_OTHERS = {"BernoulliVector", "Chain", "Masked", "Product", *ONE_HOT}
"""Made of other distributions, or of vectors of zeros and ones: tested by themselves."""


def test_the_names_of_the_table_are_unique():
    assert len(LINES) == len(ENTRIES)


def test_every_distribution_has_its_line_in_the_table():
    made = {type(build(entry)).__name__ for entry in ENTRIES.values()}
    known = {
        name
        for name in distributions.__all__
        if isinstance(getattr(distributions, name), type)
        and issubclass(getattr(distributions, name), Distribution)
    }
    assert known - made == {"Reparameterized", *OF_OTHERS}
