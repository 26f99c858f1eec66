"""Settings of the documentation: Markdown pages, notebooks, and the reference from docstrings.

``make docs`` builds it in docs/_build/html; a warning counts as an error.
"""

import dataclasses
from typing import Any

import steerlab

project = "steerlab"
author = "the steerlab contributors"
version = release = steerlab.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
]
templates_path = ["_templates"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"steerlab {version}"

# tests/test_notebooks.py runs the notebooks; here they are shown with the outputs that they hold.
nb_execution_mode = "off"
myst_heading_anchors = 4  # links to headings, as GitHub makes them

# A subpackage lists its public names in __all__ and imports each when it is first used.
autosummary_imported_members = True
autosummary_ignore_module_all = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_inherit_docstrings = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False


def _complete(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Describe a study's options by their help, and drop what Python writes for bare fields."""
    if lines and lines[0].startswith("Alias for field number"):
        lines.clear()
    if dataclasses.is_dataclass(obj):
        helps = {f.name: f.metadata["help"] for f in dataclasses.fields(obj) if f.metadata}
        lines += ["", *(f":param {name}: {text}" for name, text in helps.items())]


def setup(app: Any) -> None:
    """Connect the function above with Sphinx."""
    app.connect("autodoc-process-docstring", _complete)
