"""The pages are true: their Python prints what they say, their commands parse or run, they build.

A page is gone through from its top in a folder of its own, all its Python in one namespace. What a
```python or ```sh block prints stands in the ```text block right below it: text and whole numbers
to the letter, decimals to 5 %, and `...` is anything.
"""

import contextlib
import io
import logging
import re
import shlex
import subprocess
import sys
import zlib
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
from helpers import public_names
from PIL import Image

import aevb
from aevb import cli
from aevb.storage.latents import POSTERIORS, PRIORS
from aevb.storage.likelihoods import LIKELIHOODS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.md") if "_build" not in p.parts)
RUN = {
    *("classification.md", "doctor.md", "estimator.md", "files.md"),
    *("following.md", "table.md", "tutorial.md"),
}
"""Pages whose commands run; those of the others are held to the options that there are."""
NEEDS = {
    "estimator.md": ["pandas"],
    "files.md": ["onnx", "onnxruntime", "onnxscript"],
    "following.md": ["tensorboardX"],
    "table.md": ["pandas"],
}
"""Pages that use optional packages."""
ROOMS = [
    "aevb.algorithms",
    "aevb.codes",
    "aevb.conditional",
    "aevb.data",
    "aevb.distributions",
    "aevb.families",
    "aevb.errors",
    "aevb.flows",
    "aevb.estimator",
    "aevb.evaluation",
    "aevb.exchange",
    "aevb.following",
    "aevb.imputation",
    "aevb.linear_gaussian",
    "aevb.mcmc",
    "aevb.model",
    "aevb.networks",
    "aevb.objectives",
    "aevb.optimizers",
    "aevb.plots",
    "aevb.posterior",
    "aevb.priors",
    "aevb.randomness",
    "aevb.report",
]
"""Rooms whose public names are all in the reference."""
FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DECIMAL = re.compile(r"-?\d+\.\d+")
TOKEN = re.compile(r"(\.\.\.|\s+|-?\d+\.\d+)")
BRITISH = re.compile(
    r"behaviou|colour|centre|favour|neighbour|labell|modell|analys[ei]d?\b|"
    r"(?:normal|optim|parameter|minim|maxim|summar|initial|regular|amort|binar|discret|standard)is",
    re.IGNORECASE,
)


class Block(NamedTuple):
    """A fenced block: its language, text, line in the page, and the output that is said of it."""

    language: str
    text: str
    line: int
    output: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    found = list(FENCE.finditer(text))
    result = []
    for match, following in zip_longest(found, found[1:]):
        output = ""
        if following is not None and following[1] == "text":
            between = text[match.end() : following.start()]
            output = following[2] if not between.strip() else ""
        result.append(Block(match[1], match[2], text[: match.start()].count("\n") + 2, output))
    return result


def commands(block: Block) -> list[list[str]]:
    lines = block.text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def pictures(page: Path) -> list[Path]:
    """The pictures in the page that its own blocks draw."""
    return [
        page.parent / found for found in re.findall(r"\{image\} (pictures/\S+)", page.read_text())
    ]


def size(picture: Path) -> tuple[int, int]:
    with Image.open(picture) as opened:
        return opened.size


def run_python(block: Block, page: Path, names: dict[str, object], printed: io.StringIO) -> str:
    # As many lines above as in the page, so that a traceback names the page's own line.
    source = "\n" * (block.line - 1) + block.text
    start = printed.tell()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, str(page), "exec"), names)
    return printed.getvalue()[start:]


def run_commands(block: Block) -> str:
    printed, said = io.StringIO(), io.StringIO()
    for words in commands(block):
        with (
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(said),
            pytest.raises(SystemExit) as caught,
        ):
            cli.main(words[1:])
        assert caught.value.code == 0, said.getvalue()
    return printed.getvalue()


def pattern(said: str) -> str:
    """What the page says as a pattern: decimals caught, blanks of any length, `...` anything."""
    parts = TOKEN.split(said.strip())
    kinds = {"...": ".*?", " ": r"\s+", ".": r"(-?\d+\.\d+)"}
    return "".join(
        re.escape(part)
        if not i % 2
        else kinds["..." if part == "..." else " " if part.isspace() else "."]
        for i, part in enumerate(parts)
    )


def agree(said: str, found: str) -> bool:
    """Whether two decimals are alike: machines round differently, and training adds that up."""
    last_digit = 10.0 ** -len(said.split(".")[1])
    return abs(float(said) - float(found)) <= max(2 * last_digit, 0.05 * abs(float(said)))


def assert_printed(block: Block, found: str, page: Path) -> None:
    match = re.fullmatch(pattern(block.output), found.strip(), re.DOTALL)
    decimals = [part for part in TOKEN.findall(block.output) if DECIMAL.fullmatch(part)]
    same = match is not None and all(map(agree, decimals, match.groups()))
    place = f"{page.relative_to(ROOT)}, line {block.line}"
    assert same, f"{place} says\n{block.output}\nand prints\n{found}"


@pytest.mark.parametrize(
    ("said", "found", "same"),
    [
        ("180 rows", "180 rows", True),
        ("180 rows", "181 rows", False),
        ("-22.21 nats", "-22.3 nats", True),
        ("-22.21 nats", "-24.3 nats", False),
        ("-22.21 nats", "22.21 nats", False),
        ("a ... 1.0", "a b\nc   1.0", True),
        ("0.01", "0.03", True),
        ("0.01", "0.04", False),
    ],
)
def test_what_is_printed_is_held_to_what_is_said(said, found, same):
    block = Block("python", "", 1, said)
    with contextlib.nullcontext() if same else pytest.raises(AssertionError):
        assert_printed(block, found, DOCS / "index.md")


def of(language: str) -> list[Path]:
    return [page for page in PAGES if any(b.language == language for b in blocks(page))]


def name(page: Path) -> str:
    return str(page.relative_to(DOCS))


@pytest.mark.parametrize("page", of("python"), ids=name)
def test_the_page_does_what_it_says(page, tmp_path, monkeypatch):
    for package in NEEDS.get(page.name, ()):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    logger = logging.getLogger("aevb")
    monkeypatch.setattr(logger, "handlers", list(logger.handlers))
    names: dict[str, object] = {"__name__": "__main__"}
    printed = io.StringIO()  # the same for all blocks: a logger may hold on to it
    for block in blocks(page):
        if block.language == "python":
            assert_printed(block, run_python(block, page, names, printed), page)
        elif block.language == "sh" and page.name in RUN:
            found = run_commands(block)
            if block.output:
                assert_printed(block, found, page)
    for picture in pictures(page):
        drawn = next(tmp_path.rglob(picture.name))
        assert size(drawn) == pytest.approx(size(picture), rel=0.1), f"draw {picture} anew"


@pytest.mark.parametrize("page", of("sh"), ids=name)
def test_every_command_parses(page):
    group = typer.main.get_command(cli.app)
    for block in blocks(page):
        if block.language == "sh":
            for program, command, *arguments in commands(block):
                assert program == "aevb"
                group.commands[command].make_context(command, list(arguments))


TABLES = {"posterior": POSTERIORS, "prior": {*PRIORS, "vamp"}, "likelihood": LIKELIHOODS}
LAWS = ["composition.md", "inverse-cdf.md", "location-scale.md", "observations.md"]


@pytest.mark.parametrize("page", LAWS)
def test_where_a_law_is_used_is_where_its_name_is_known(page):
    text = (DOCS / page).read_text().split("| where it is used |")[1].split("\n\n")[0]
    for _, law, _, _, used, *_ in (row.split("|") for row in text.splitlines()[2:]):
        for kinds, names in re.findall(r"((?:\w+(?:, | and )?)+) ((?:`[a-z-]+`,? ?)+)", used):
            for kind in re.findall("posterior|prior|likelihood", kinds):
                assert {*re.findall(r"`(.+?)`", names)} <= {*TABLES[kind]}, used
        if used.strip().startswith("Python"):
            spelled = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", re.findall("`(\\w+)", law)[0]).lower()
            assert not any(spelled in table for table in TABLES.values()), law


def test_likelihoods_are_spelled_as_the_command_line_has_them():
    text = (DOCS / "likelihoods.md").read_text().split("\n\n## ")[0]
    names = re.findall(r"`([a-z][\w-]+) <aevb\.", text)
    assert len(names) > 10
    assert {found.replace("_", "-") for found in names} <= {*LIKELIHOODS}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_page_is_whole(page):
    text = page.read_text()
    assert {b.language for b in blocks(page)} <= {
        "python", "sh", "text", "json", "{eval-rst}", "{toctree}", "{image}"
    }  # fmt: skip
    assert not BRITISH.findall(text)
    assert all(line == line.rstrip() for line in text.splitlines())


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("sphinx")
    pytest.importorskip("furo")
    pytest.importorskip("myst_parser")
    target = tmp_path_factory.mktemp("site")
    arguments = ["-W", "-n", "-q", "-d", str(target / "doctrees"), str(DOCS), str(target / "html")]
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", *arguments], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    return target / "html"


def test_the_site_builds_without_a_warning_and_asks_nobody_for_anything(site):
    for page in site.rglob("*.html"):
        html = page.read_text()
        fetched = re.findall(r'<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)="([^"]+)"', html)
        assert not [address for address in fetched if "//" in address], page
        assert "$$" not in html


def test_the_reference_has_every_public_name(site):
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    known = {line.split()[0] for line in zlib.decompress(inventory).decode().splitlines()}
    missing = {
        public
        for public in aevb.__all__
        if not {f"aevb.{public}", f"aevb.objectives.{public}"} & known
    }
    assert not missing
    of_rooms = {
        f"{room}.{public}": {f"{room}.{public}", f"aevb.{public}", home}
        for room in ROOMS
        for public, home in public_names(room)
    }
    assert not {public for public, places in of_rooms.items() if not places & known}
