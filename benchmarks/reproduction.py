"""Puts the results of `aevb reproduce` into docs/reproduction.md, with their figures.

    python benchmarks/reproduction.py runs/reproduce

A section lies between `<!-- begin NAME -->` and `<!-- end NAME -->`; one whose results are not in
the folder stays as it is.
"""

import json
import re
import sys
from pathlib import Path

from aevb.reproduce import NAMES, markdown

DOCS = Path(__file__).parents[1] / "docs"
PAGE, PICTURES = DOCS / "reproduction.md", DOCS / "pictures" / "reproduction"


def filled(page: str, name: str, text: str) -> str:
    """The page with a section replaced."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    pattern = re.escape(begin) + ".*?" + re.escape(end)
    if not re.search(pattern, page, re.DOTALL):
        raise SystemExit(f"{PAGE} has no section for {name}: add {begin} and {end}")
    return re.sub(pattern, lambda _: f"{begin}\n\n{text}\n\n{end}", page, flags=re.DOTALL)


def main(folder: Path) -> None:
    page = PAGE.read_text()
    for name in NAMES:
        if (folder / name / "results.json").exists():
            report = json.loads((folder / name / "results.json").read_text())
            PICTURES.mkdir(parents=True, exist_ok=True)
            (PICTURES / f"{name}.png").write_bytes((folder / name / "figure.png").read_bytes())
            picture = f"![{report['title']}](pictures/reproduction/{name}.png)"
            page = filled(page, name, f"{picture}\n\n{markdown(report)}")
            print(f"{name}: {report['budget']}")
    PAGE.write_text(page)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/reproduce"))
