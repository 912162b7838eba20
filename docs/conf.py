"""Sphinx configuration. The build fails (with -W) on any warning, an undocumented public name among them."""

from __future__ import annotations

import doctest
import os
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

import anynorm

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment
    from sphinx.writers.html5 import HTML5Translator

# The page on replicas runs on eight devices; JAX reads this when it is imported.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

HERE = Path(__file__).parent
logger = logging.getLogger(__name__)

project = "anynorm"
author = project_copyright = "the anynorm authors"
release = version = anynorm.__version__

extensions = [
    "matplotlib.sphinxext.plot_directive",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "examples"]
templates_path = ["_templates"]

html_theme = "furo"
html_title = f"anynorm {release}"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["pages.css"]

autodoc_typehints = "none"  # the docstrings name the types
napoleon_google_docstring = False
napoleon_use_param = False  # keeps "weight, bias" together
napoleon_use_rtype = False

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

doctest_default_flags = (
    doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
)  # long messages are wrapped

plot_formats = ["svg"]
plot_html_show_formats = plot_html_show_source_link = False
plot_rcparams = {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10}

# ---------------------------------------------------------------------------------- links to other libraries

DOCUMENTATION = {
    "dask": "https://docs.dask.org/en/stable/",
    "jax": "https://docs.jax.dev/en/latest/",
    "numpy": "https://numpy.org/doc/stable/",
    "python": "https://docs.python.org/3/",
    "torch": "https://docs.pytorch.org/docs/stable/",
}


def inventories(folder: Path) -> dict[str, tuple[str, str]]:
    """Return where other libraries document their names: those whose list is in a folder, or can be had now.

    Without a network the names stay plain text, and nothing fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for library, address in DOCUMENTATION.items():
        file = folder / f"{library}.inv"
        try:
            if not file.exists():
                with urllib.request.urlopen(
                    f"{address}objects.inv", timeout=3
                ) as answer:
                    file.write_bytes(answer.read())
        except OSError as error:
            logger.info("no links to other libraries' pages: %s: %s", address, error)
            break
    return {
        name: (DOCUMENTATION[name], str(file))
        for name in DOCUMENTATION
        if (file := folder / f"{name}.inv").exists()
    }


intersphinx_mapping = inventories(HERE / "_build" / "inventories")

# ---------------------------------------------------------------------------------- formulas, without a network


def visit_math(translator: HTML5Translator, node: nodes.math) -> None:
    """Write a formula as MathML, which browsers draw by themselves."""
    translator.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def visit_math_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula of its own lines."""
    translator.body.append(
        f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>'
    )
    raise nodes.SkipNode


# ---------------------------------------------------------------------------------- pages in Chinese


def join_chinese_lines(app: Sphinx, document: nodes.document) -> None:
    """Take the spaces out that line breaks of the source would be: Chinese has none between words."""
    if app.env.docname.startswith("zh/"):
        for text in list(document.findall(nodes.Text)):
            if text.astext() == "\n":
                text.parent.remove(text)


def say_language(
    _: Sphinx,
    page: str,
    _template: str,
    context: dict[str, Any],
    _document: nodes.document,
) -> None:
    """Tell browsers that a page is in Chinese, so that they choose its fonts."""
    if page.startswith("zh/"):
        context["language"] = "zh-CN"


# ---------------------------------------------------------------------------------- what has to be documented


def check_public_names(_: Sphinx, env: BuildEnvironment) -> None:
    """Warn of every public name that no page of the reference documents."""
    documented = env.domains["py"].data["objects"]
    for name in (*anynorm.__all__, *(f"vjp.{name}" for name in anynorm.vjp.__all__)):
        if f"anynorm.{name}" not in documented:
            logger.warning("anynorm.%s is public, and no page documents it", name)


def setup(app: Sphinx) -> None:
    """Register what is above."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    app.connect("doctree-read", join_chinese_lines)
    app.connect("html-page-context", say_language)
    app.connect("env-check-consistency", check_public_names)
