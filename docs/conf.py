"""How the pages are built: `make docs`, or `sphinx-build -W -n docs docs/_build`."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

import aevb  # noqa: E402

project = "aevb"
author = "The aevb developers"
version = release = aevb.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "mathml", "docstrings"]
exclude_patterns = ["_build"]
default_role = "code"

myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 88
smartquotes = False
autodoc_inherit_docstrings = False
# References into other projects would need their inventories, hence a network.
nitpick_ignore_regex = [(r"py:.*", r"(?!aevb\.).*")]

html_theme = "furo"
html_title = f"aevb {release}"
html_static_path = ["_static"]
html_css_files = ["aevb.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
