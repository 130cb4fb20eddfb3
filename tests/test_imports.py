"""The order of the design: a module imports only what stands to the left of it; no cycles."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import aevb

PACKAGE = Path(aevb.__file__).parent
ORDER = [
    {"errors"},
    {"files", "settings"},
    {"devices", "machine", "products", "randomness"},
    {"signature"},
    {"library"},
    {"compilation", "data", "mcmc", "networks", "optimizers"},
    {"distributions"},
    {"flows"},
    {"families"},
    {"conditional"},
    {"model", "priors"},
    {"enumeration"},
    {"posterior"},
    {"gaussian_mixture", "linear_gaussian"},
    {"objectives"},
    {"refinement"},
    {"algorithms", "evaluation"},
    {"codes", "imputation", "storage"},
    {"exchange", "plan", "portions"},
    {"training"},
    {"following"},
    {"plots"},
    {"estimator", "report"},
    {"workflow"},
    {"reproduce"},
    {"progress"},
    {"cli"},
]
RANK = {name: i for i, group in enumerate(ORDER) for name in group}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path):
    """The modules of the package that a file imports, at the top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("aevb"):
            if node.module == "aevb":
                yield from (f"aevb.{alias.name}" for alias in node.names)
            else:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("aevb"))


FILES = [p for p in sorted(PACKAGE.rglob("*.py")) if p != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_what_stands_to_the_left(path):
    own = room(path)
    assert own in RANK, f"{own} has no place in the order"
    for module in imports(path):
        other = module.split(".")[1]
        if other in ("__version__", own):
            continue
        assert RANK[other] < RANK[own], f"{own} imports {other}"


def test_a_room_imports_only_from_those_above_it_in_the_readme():
    readme = (PACKAGE.parent / "README.md").read_text()
    tree = re.findall(r"^  (\S+(?:, \S+)*)  ", readme.split("\naevb/\n")[1], re.MULTILINE)
    rooms = re.findall(r"\w+(?=\.py|/)", " ".join(tree))
    assert sorted(rooms) == sorted({room(path) for path in FILES})
    for path in FILES:
        asked = {module.split(".")[1] for module in imports(path)} - {"__version__", room(path)}
        below = asked & set(rooms[rooms.index(room(path)) :])
        assert not below, f"{path} imports {below}"


def test_no_cycle_inside_a_room():
    graph = {
        ".".join(["aevb", *p.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(
            ".__init__"
        ): set(imports(p))
        for p in FILES
        if p.name != "__init__.py"
    }
    done: set[str] = set()

    def visit(name, above):
        assert name not in above, f"cycle through {name}"
        if name in graph and name not in done:
            for other in graph[name]:
                visit(other, [*above, name])
            done.add(name)

    for name in graph:
        visit(name, [])


def test_import_is_lazy_and_complete():
    code = (
        "import sys, aevb;"
        "assert not {'torch', 'numpy', 'sklearn', 'matplotlib'} & set(sys.modules);"
        "[getattr(aevb, name) for name in aevb.__all__]; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("work", "unneeded"),
    [
        ("import aevb.storage", {"sklearn", "scipy", "pandas", "matplotlib"}),
        (
            "import aevb.cli; from aevb.settings import check_settings; "
            "check_settings({'latent_dim': 3})",
            {"torch", "numpy"},
        ),
    ],
    ids=["a run folder is opened", "settings are checked"],
)
def test_what_is_heavy_is_not_waited_for(work, unneeded):
    code = f"{work}; import sys; assert not {unneeded} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_objectives_and_algorithms_stay_in_their_rooms():
    for path in FILES:
        text = path.read_text()
        if room(path) == "objectives":
            assert "optim" not in text.split('"""', 2)[2]
        if room(path) == "training":
            assert "log_prob" not in text


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'VEA'"):
        _ = aevb.VEA
