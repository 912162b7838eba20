"""Sphinx configuration. The build fails (with -W) on any warning, an undocumented public name among them."""

from __future__ import annotations

import doctest
import os
from typing import TYPE_CHECKING

from sphinx.util import logging

import anynorm

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

# The page on replicas runs on eight devices; JAX reads this when it is imported.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

project = "anynorm"
author = "the anynorm authors"
release = version = anynorm.__version__

extensions = [
    "matplotlib.sphinxext.plot_directive",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
plot_formats = ["svg"]
plot_html_show_formats = plot_html_show_source_link = False
exclude_patterns = ["_build", "examples"]

html_theme = "furo"
html_title = f"anynorm {release}"

autodoc_typehints = "none"  # the docstrings name the types
napoleon_google_docstring = False
napoleon_use_param = False  # keeps "weight, bias" together
napoleon_use_rtype = False

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

doctest_default_flags = doctest.ELLIPSIS


def check_public_names(_: Sphinx, env: BuildEnvironment) -> None:
    """Warn of every public name that no page of the reference documents."""
    documented = env.domains["py"].data["objects"]
    for name in (*anynorm.__all__, *(f"vjp.{name}" for name in anynorm.vjp.__all__)):
        if f"anynorm.{name}" not in documented:
            logging.getLogger(__name__).warning("anynorm.%s is public, and no page documents it", name)


def setup(app: Sphinx) -> None:
    """Have the check run whenever a page has been read."""
    app.connect("env-check-consistency", check_public_names)
