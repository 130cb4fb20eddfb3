"""What the README says is so: its Python runs, its commands parse, its tree and its links exist."""

import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

import aevb
from aevb import cli
from aevb.settings import Settings

ROOT = Path(__file__).parents[1]
TABLE = {field.name for field in fields(Settings)}
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)


def test_the_python_runs_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = [text for language, text in BLOCKS if language == "python"]
    assert len(blocks) == 3
    exec(compile(blocks[0], "README.md", "exec"), names)
    assert names["codes"].shape == (397, 10)
    assert names["samples"].shape == (64, 64)
    assert np.isfinite(names["filled"]).all()
    assert (tmp_path / "my-vae" / "model.safetensors").exists()
    for text in blocks[1:]:
        exec(compile(text, "README.md", "exec"), names)
    assert (tmp_path / "latent.png").exists()
    assert names["codes"].shape == (180, 2)
    assert names["bound"].shape == (100,)


def test_every_command_and_option_exists():
    block = next(text for _, text in BLOCKS if text.startswith("aevb train"))
    known = {
        command.name or command.callback.__name__: command.callback
        for command in cli.app.registered_commands
    }
    lines = [line.split("#")[0].split() for line in block.strip().splitlines()]
    assert {words[1] for words in lines} == set(known)
    said = "".join(path.read_text() for path in Path(cli.__file__).parent.glob("*.py"))
    for words in lines:
        options = {word for word in words if word.startswith("--")}
        for option in options:
            name = option[2:].replace("-", "_")
            assert f'"{option}"' in said or f"    {name}: " in said or name in TABLE, option


def test_the_tree_and_the_links_exist():
    tree = BLOCKS[-1][1] if BLOCKS else ""
    names = re.findall(r"^(?:  )?([\w./]+(?:, [\w./]+)*)  ", tree, re.MULTILINE)
    assert len(names) > 15
    for name in ", ".join(names).split(", "):
        assert (ROOT / name).exists() or (ROOT / "aevb" / name).exists(), name
    rooms = {p.name for p in (ROOT / "aevb").iterdir() if not p.name.startswith("_")}
    listed = {n.rstrip("/") for n in ", ".join(names).split(", ")}
    assert {r for r in rooms if r.endswith(".py") or (ROOT / "aevb" / r).is_dir()} <= listed
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


@pytest.mark.parametrize("name", aevb.__all__)
def test_every_public_name_is_documented(name):
    assert getattr(aevb, name).__doc__
