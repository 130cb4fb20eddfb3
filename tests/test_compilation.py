"""Compiled functions: one graph for each key, found again, and never wrong for what was changed."""

import gc

import pytest
import torch
from helpers import needs_compiler
from torch.distributions import Distribution, Normal, OneHotCategorical

import aevb
from aevb.compilation import Compiled, layouts

pytestmark = needs_compiler


def test_a_graph_is_made_once_for_each_key():
    made = Compiled(lambda x: torch.sin(x))
    x = torch.linspace(-1, 1, 6)
    for shaped in (x, x.reshape(2, 3), x.double(), x):
        assert torch.allclose(made(layouts((shaped,)), shaped), torch.sin(shaped))
    assert len(made._graphs) == 3
    assert made.note is None


def test_layouts_tell_shapes_strides_and_dtypes_apart():
    x = torch.zeros(2, 2)
    keys = [layouts((t,)) for t in (x, x.t(), x[:1], x.double(), None)]
    assert len(set(keys)) == 5 - (x.t().stride() == x.stride())


def test_threads_gradients_and_settings_of_the_process_may_change_between_calls():
    made, x = Compiled(lambda x: (x * x).sum()), torch.arange(4.0, requires_grad=True)
    threads = torch.get_num_threads()
    try:
        assert made("k", x).item() == 14
        torch.set_num_threads(threads + 1)
        assert made("k", x).item() == 14
        with torch.no_grad():
            assert not made("k", x).requires_grad
        assert made("k", x).requires_grad
        graphs = len(made._graphs)
        torch.use_deterministic_algorithms(True)
        assert made("k", x).item() == 14
        assert len(made._graphs) == graphs + 1
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
    assert made.note is None


def test_what_surrounds_a_call_is_seen():
    made, x = Compiled(lambda x: x @ x), torch.eye(3)
    assert made("k", x).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert made("k", x).dtype == torch.bfloat16
    assert made("k", x).dtype == torch.float32


def test_a_method_a_closure_and_a_default_keep_theirs_when_called_again():
    class Scaled:
        def __init__(self, factor):
            self.factor = factor

        def __call__(self, x, shift=2, *, further=4):
            return self.factor * x + shift + len(outer) + further

    outer, x = [1, 2, 3], torch.ones(2)
    made = Compiled(Scaled(10).__call__)
    for _ in range(3):
        assert made("k", x).tolist() == [19, 19]
    assert made.note is None


def test_a_step_is_compiled_for_each_mode_of_each_module():
    """And found again in a mode that was before; the steps are those of the eager twin."""
    x, found = torch.eye(5)[:3].double(), {}
    for compiled in (False, True):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.BatchNorm1d(4))
        model = aevb.Model(aevb.standard_normal(2), aevb.bernoulli(aevb.MLP(2, [3], 5)))
        pair = model.double(), aevb.mean_field(net).double()
        learner = aevb.AEVB(*pair, compiled=compiled)
        state = learner.init()
        for mode in (True, False, True, False):
            net[1].train(mode)
            learner.step(state, x, torch.ones(1, 3, 2).double())
        found[compiled] = net[1].running_mean.clone()
    assert len(learner._graph._graphs) == 2
    assert learner.note is None
    assert torch.allclose(found[True], found[False])


# Torch takes a name out of a module twice where it had traced two functions of it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_graph_outlives_a_reset_of_the_compiler():
    made, x = Compiled(lambda x: torch.cos(x) + 1), torch.arange(3.0)
    first = made("k", x)
    torch._dynamo.reset()
    gc.collect()
    assert torch.equal(made("k", x), first)


def test_what_cannot_be_compiled_runs_as_it_stands_and_says_why():
    def untraceable(x):
        return torch.tensor(x.tolist()) + 1  # a list of numbers depends on the data

    made = Compiled(untraceable)
    for _ in range(2):
        assert made("k", torch.ones(2)).tolist() == [2, 2]
    assert made.note is not None
    assert "runs uncompiled" in made.note
    assert "\n" not in made.note


def test_a_guarded_function_sees_that_a_module_was_changed():
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh())
    made, x = Compiled(lambda net, x: net(x), guarded=True), torch.ones(3, 2)
    with torch.no_grad():
        assert torch.allclose(made("k", net, x), net(x))
        net[0].weight.mul_(2)
        assert torch.allclose(made("k", net, x), net(x))
        net[1] = torch.nn.ReLU()
        assert torch.allclose(made("k", net, x), net(x))
    assert made.note is None


def test_torch_looks_at_arguments_of_distributions_after_a_compilation_as_before():
    def density(logits):
        return OneHotCategorical(logits=logits, validate_args=False).log_prob(torch.eye(3))

    made, logits = Compiled(density), torch.tensor([0.1, 0.2, 0.3])
    for looks in (False, True):  # the second one is traced where torch's own patch was undone
        Distribution.set_default_validate_args(looks)
        assert torch.allclose(made(looks, logits), density(logits))
        assert Distribution._validate_args is looks
    assert made.note is None
    with pytest.raises(ValueError, match="to satisfy the constraint"):
        Normal(0.0, -1.0)
