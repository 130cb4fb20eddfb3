"""Compiled steps that are kept: found only by what decides them, never where they were damaged."""

import errno
import json
import os
import shutil
import subprocess
import sys
from functools import partial

import pytest
import torch
from helpers import binary_rows, needs_compiler, small_pair
from torch import nn

import aevb
from aevb import library
from aevb.algorithms import AEVB
from aevb.compilation import Compiled, _compiling
from aevb.evaluation import bound_sums
from aevb.library import Library, kept_library, make_library
from aevb.objectives import elbo_a, free_bits
from aevb.optimizers import Adam
from aevb.posterior import Batch
from aevb.signature import signature


def learner_of(width=6, hidden=5, activation=nn.Tanh, **more):
    torch.manual_seed(0)
    model = aevb.Model(
        aevb.standard_normal(2), aevb.bernoulli(aevb.MLP(2, [hidden], width, activation))
    )
    posterior = aevb.mean_field(aevb.MLP(width, [hidden], 4, activation))
    return AEVB(model, posterior, **more)


def signed(treatment=None, **more):
    learner = learner_of(**more)
    learner.treatment = treatment
    return signature(learner._advance, (learner.init(), torch.ones(3, 6)))


class Own(nn.Tanh):
    """A module of a user's."""


# -- signatures -----------------------------------------------------------------------------------


def test_equal_learners_have_one_signature_whatever_their_weights():
    first, second = learner_of(), learner_of()
    with torch.no_grad():
        second.model.likelihood.network.head.bias.add_(1)
    signatures = {signature(made._advance, (made.init(),)) for made in (first, second)}
    assert len(signatures) == 1
    assert None not in signatures


def test_whatever_decides_a_step_is_in_its_signature():
    settings = [
        {},
        {"hidden": 4},
        {"activation": nn.ReLU},
        {"objective": elbo_a},
        {"objective": free_bits(0.5)},
        {"objective": free_bits(0.25)},
        {"optimizer": Adam(beta1=0.8)},
        {"optimizer": Adam(eps=1e-7)},
        {"optimizer": Adam(clip=1.0)},
        {"optimizer": Adam(clip=2.0)},
        {"weight_prior_rows": 10},
        {"precision": "bfloat16"},
        {"treatment": aevb.data.dataset.Treatment(6)},
        {"treatment": aevb.data.dataset.Treatment(6, 0.5)},
    ]
    signatures = [signed(**one) for one in settings]
    assert None not in signatures
    assert len(set(signatures)) == len(settings)


def test_the_mode_the_layout_and_the_process_are_in_it():
    learner, x = learner_of(), torch.ones(3, 6)
    found = [signature(learner._advance, x)]
    found.append(signature(learner._advance, torch.ones(4, 6)))
    found.append(signature(learner._advance, torch.ones(6, 3).t()))
    found.append(signature(learner._advance, x.double()))
    learner.model.eval()
    found.append(signature(learner._advance, x))
    with torch.no_grad():
        found.append(signature(learner._advance, x))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        found.append(signature(learner._advance, x))
    finally:
        torch.set_num_threads(threads)
    assert len(set(found)) == 7


def test_one_tensor_in_two_places_is_not_two():
    a, b = torch.ones(2), torch.ones(2)
    assert signature(a, a) != signature(a, b)


def test_a_function_of_ours_that_was_replaced_is_seen(monkeypatch):
    before = signed()
    monkeypatch.setattr(aevb.objectives.bounds, "kl", lambda q, p: None)
    assert signed() != before
    monkeypatch.undo()
    monkeypatch.setattr(aevb.networks.MLP, "forward", lambda self, x: self.head(self.body(2 * x)))
    assert signed() != before
    monkeypatch.undo()
    assert signed() == before


def test_what_cannot_be_looked_through_has_no_signature():
    learner = learner_of(activation=Own)
    assert signature(learner.model) is None
    assert signature(lambda x: x) is None
    assert signature(partial(print, object())) is None
    hooked = nn.Linear(2, 2)
    hooked.register_forward_hook(lambda *_: None)
    assert signature(hooked) is None
    patched = nn.Linear(2, 2)
    patched.forward = lambda x: x
    assert signature(patched) is None
    constant = nn.Linear(2, 2)
    constant.shift = torch.ones(2)
    assert signature(constant) is None
    assert signature(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))) is None


# -- libraries ------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of its own for what is kept."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    return tmp_path / "aevb"


BOUNDS = """
import sys, torch, aevb
from aevb.compilation import Compiled
from aevb.evaluation import bound_sums
from aevb.posterior import Batch
from aevb.signature import signature

torch.manual_seed(0)
model = aevb.Model(aevb.standard_normal(2), aevb.bernoulli(aevb.MLP(2, [5], 6)))
posterior = aevb.mean_field(aevb.MLP(6, [5], 4))
learner = aevb.AEVB(model, posterior)
learning = signature(learner._advance, (learner.init(), torch.ones(3, 6)))
model, posterior = model.double().eval(), posterior.double().eval()
compiled = Compiled(bound_sums)
with torch.no_grad():
    x, noise = torch.ones(7, 6).double(), torch.zeros(1, 7, 2).double()
    found = compiled("bounds", model, posterior, Batch(x), noise)
assert compiled.note is None
print("torch._dynamo" in sys.modules, found.tolist(), learning)
"""


def in_a_process(script, path):
    """What a script prints in a process of its own that keeps compiled steps in a folder."""
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(path)}
    command = [sys.executable, "-c", script]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment
    ).stdout


def test_a_library_that_cannot_be_kept_leaves_nothing(tmp_path, monkeypatch):
    made, target = tmp_path / "made", tmp_path / "libraries" / "graph"
    made.mkdir()
    target.mkdir(parents=True)
    (made / "code.so").write_text("code")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copy", full)
        with pytest.raises(OSError, match="No space"):
            library._keep(made, target)
    assert list(target.parent.iterdir()) == [target]
    library._keep(made, target)
    assert list(target.parent.iterdir()) == [target]
    assert (target / "code.so").read_text() == "code"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What another process made two bounds into, for all tests below.

    The arguments, the folder and what it printed; here it is found by its graph, which is traced.
    """
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("made")
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(path))
        said = in_a_process(BOUNDS, path)
        assert said.startswith("True")
        arguments = bound_arguments()
        assert make(arguments) is not None
        assert len(list((path / "aevb" / "libraries").iterdir())) == 1
        yield arguments, path, said


def bound_arguments(seed=0):
    model, posterior = small_pair(seed=seed)
    x, noise = binary_rows().all().double(), torch.zeros(1, 7, 2).double()
    return model.eval(), posterior.eval(), Batch(x), noise


def make(arguments):
    with torch.no_grad(), _compiling() as options:
        return make_library(bound_sums, arguments, options)


@needs_compiler
def test_a_kept_library_gives_the_numbers_of_the_weights_it_is_given(made, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(made[1]))
    with torch.no_grad():
        for seed in (0, 1):
            arguments = bound_arguments(seed)
            library = kept_library(bound_sums, arguments)
            assert isinstance(library, Library)
            assert torch.allclose(library(*arguments), bound_sums(*arguments), rtol=1e-12)
            next(arguments[0].parameters()).mul_(2)
            assert torch.allclose(library(*arguments), bound_sums(*arguments), rtol=1e-12)


@needs_compiler
def test_it_is_not_found_for_another_function_or_with_gradients(made, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(made[1]))
    arguments = made[0]
    assert kept_library(bound_sums, arguments) is None  # of a gradient it knows nothing
    with torch.no_grad():
        assert kept_library(bound_sums, arguments) is not None
        arguments[1].train()
        assert kept_library(bound_sums, arguments) is None
        arguments[1].eval()
        assert kept_library(lambda *given: bound_sums(*given), arguments) is None
        alias = Batch(arguments[2].x, arguments[2].x)
        assert kept_library(bound_sums, (*arguments[:2], alias, arguments[3])) is None


@needs_compiler
@pytest.mark.parametrize("harm", ["cut", "changed", "no manifest", "no code", "{}", "[]", "{"])
def test_a_damaged_library_is_not_opened(made, folder, harm):
    shutil.copytree(made[1] / "aevb", folder)
    (library,) = (folder / "libraries").iterdir()
    code, manifest = library / "code.so", library / "manifest.json"
    if harm == "cut":
        code.write_bytes(code.read_bytes()[:1000])
    elif harm == "changed":
        content = bytearray(code.read_bytes())
        content[len(content) // 2] ^= 1
        code.write_bytes(content)
    elif harm == "no code":
        code.unlink()
    elif harm == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text(harm)
    with torch.no_grad():
        assert kept_library(bound_sums, made[0]) is None


@needs_compiler
@pytest.mark.slow
def test_a_damaged_library_is_made_again(made, folder):
    shutil.copytree(made[1] / "aevb", folder)
    (library,) = (folder / "libraries").iterdir()
    (library / "code.so").write_bytes(b"")
    assert make(made[0]) is not None
    with torch.no_grad():
        assert kept_library(bound_sums, made[0]) is not None


@needs_compiler
def test_a_folder_that_others_may_write_to_is_not_read(made, folder):
    shutil.copytree(made[1] / "aevb", folder)
    with torch.no_grad():
        assert kept_library(bound_sums, made[0]) is not None
        folder.chmod(0o777)
        assert kept_library(bound_sums, made[0]) is None


@needs_compiler
def test_another_signature_of_the_same_graph_opens_the_same_library(made, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(made[1]))
    model, *rest = bound_arguments()
    model.likelihood.network.hidden = (5, 0)  # a number that no graph is made of
    before = list((made[1] / "aevb" / "libraries").iterdir())
    with torch.no_grad():
        assert kept_library(bound_sums, (model, *rest)) is None
        assert make((model, *rest)) is not None
        assert kept_library(bound_sums, (model, *rest)) is not None
    assert list((made[1] / "aevb" / "libraries").iterdir()) == before


@needs_compiler
def test_a_module_of_a_users_is_compiled_and_not_kept():
    made = Compiled(Own().forward)
    assert torch.allclose(made("k", torch.ones(3)), torch.ones(3).tanh())
    assert made.note is None
    assert not isinstance(made._graphs.popitem()[1], Library)


@needs_compiler
def test_the_next_process_finds_it_without_the_compiler(made):
    _, path, first = made
    again = in_a_process(BOUNDS, path)
    assert first.replace("True", "False") == again
    assert again.startswith("False")
    (library,) = (path / "aevb" / "libraries").iterdir()
    assert set(json.loads((library / "manifest.json").read_text())["files"]) == {"code.so"}


FRESH = """
import sys, torch, aevb
torch.manual_seed(0)
model = aevb.Model(aevb.standard_normal(2), aevb.bernoulli(aevb.MLP(2, [5], 6)))
learner = aevb.AEVB(model, aevb.mean_field(aevb.MLP(6, [5], 4)), compiled=True)
state = learner.init()
for t in range(3):
    learner.step(state, torch.ones(3, 6), torch.full((1, 3, 2), 0.1 * t))
assert learner.note is None
loaded = "torch._dynamo" in sys.modules
print(loaded, [float(p.double().sum()) for p in state.parameters.values()])
"""


@needs_compiler
@pytest.mark.slow
def test_the_next_process_takes_the_same_steps_without_the_compiler(folder):
    first, again = in_a_process(FRESH, folder.parent), in_a_process(FRESH, folder.parent)
    assert first.replace("True", "False") == again
    assert again.startswith("False")
