"""The measures of the house: short files, short functions, few arguments, docstrings."""

import ast
import pkgutil
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path

import pytest

import aevb

PACKAGE = Path(aevb.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
ROOT = Path(__file__).parents[1]
SCRIPTS = [
    path
    for room in ("tests", "benchmarks", "docs", "examples")
    for path in sorted((ROOT / room).rglob("*.py"))
    if "_build" not in path.parts
]
MOST_LINES, MOST_IN_A_FUNCTION, MOST_PARAMETERS = 500, 60, 8
LONG = {
    "Settings": "every option of `aevb train`, each under its name in a file",
    "Experiment": "every setting of an experiment, each under its name in a file",
    "NamedSet": "what is known of a data set, each fact under its name in a table",
    "Source": "what a reader found in a file; who knows better names the facts that differ",
    "Case": "what a run folder knows, of which all but a model and a posterior may be missing",
    "Certificate": "a result, made by estimates alone",
}
"""Records that may have more fields than a constructor has parameters."""


def defined(tree, kinds):
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


@pytest.mark.parametrize("path", FILES + SCRIPTS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_a_file_is_read_in_one_go(path):
    text = path.read_text()
    assert text.count("\n") <= MOST_LINES
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    for function in defined(tree, ast.FunctionDef):
        length = function.end_lineno - function.lineno + 1
        assert length <= MOST_IN_A_FUNCTION, f"{function.name} has {length} lines"
        if function.name == "__init__":
            arguments = function.args
            named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            count = len(named) - 1 + (arguments.kwarg is not None)
            assert count <= MOST_PARAMETERS, f"line {function.lineno}: {count} parameters"


def test_no_test_imports_another_but_to_plant_bugs_before_it():
    for path in SCRIPTS:
        if "planted" not in path.name:
            tree = ast.parse(path.read_text())
            asked = {node.module or "" for node in defined(tree, ast.ImportFrom)}
            asked |= {name.name for node in defined(tree, ast.Import) for name in node.names}
            assert not [name for name in asked if name.startswith("test_")], path


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_public_class_and_function_has_a_docstring(path):
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name}, line {node.lineno}"


def test_a_record_is_made_of_few_fields():
    names = [module.name for module in pkgutil.walk_packages([str(PACKAGE)], "aevb.")]
    modules = [import_module(name) for name in names if not name.endswith("__main__")]
    kinds = {kind for module in modules for kind in vars(module).values() if isinstance(kind, type)}
    records = {kind for kind in kinds if is_dataclass(kind)}
    long = {k.__name__ for k in records if sum(f.init for f in fields(k)) > MOST_PARAMETERS}
    assert long == set(LONG)
