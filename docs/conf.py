"""How the documentation is built: ``make docs``."""

from __future__ import annotations

from importlib import metadata

from click.testing import CliRunner
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from dask_adaptive.show.cli import adaptive

project = "dask-adaptive"
author = copyright = "The dask-adaptive developers"
version = release = metadata.version("dask-adaptive")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["images"]
html_theme = "furo"
html_title = "dask-adaptive"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_default_options = {"members": True, "show-inheritance": False}


class Help(SphinxDirective):
    """``--help`` of a command, as the command prints it: the page cannot differ from it."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        arguments = [*self.arguments, "--help"]
        text = CliRunner().invoke(adaptive, arguments, prog_name="dask adaptive", terminal_width=100).output
        return [nodes.literal_block(text, text, language="text")]


def literal(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Drawings and examples in the docstring of a module are shown as they are."""
    if what == "module":
        shown: list[str] = []
        for line in lines:
            if line.startswith("    ") and (not shown or not shown[-1]) and "::" not in shown:
                shown += ["::", ""]
            elif line and not line.startswith(" "):
                shown = [*shown, line]
                continue
            shown.append(line)
        lines[:] = shown


def setup(app: Sphinx) -> None:
    app.add_directive("program-help", Help)
    app.connect("autodoc-process-docstring", literal)
