"""Sphinx configuration: one site from MyST pages, gallery scripts and the package's docstrings."""

import os
import sys
import tomllib
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent / "_ext"), str(Path(__file__).parent)]

SECTIONS = [
    "examine",
    "questions",
    "variants",
    "networks",
    "pitfalls",
    "multi_gpu",
    "performance",
]
execute = os.environ.get("BNREF_EXECUTE") != "0"

from api_reference import linkcode_resolve  # noqa: E402, F401 (sphinx.ext.linkcode asks for it)

_about = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
project, version, author = _about["name"], _about["version"], _about["authors"][0]["name"]
release = version
project_copyright = f"2026, {author}, {_about['license']} licence"
language = "en"

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_nb",
    "sphinx_gallery.gen_gallery",
    "sphinx_design",
    "sphinx_copybutton",
    "sphinxcontrib.bibtex",
    "freshness",
    "claimed",
    "foot",
    "fixes",
    "ran_in_pytorch",
    "answer_first",
    "see_also",
    "papers",
    "mathml",
    "coverage",
    "signatures",
    "variants",
    "finder",
    "site_search",
    "conformance",
    "defects",
    "versions",
    "accessible",
    "gallery_cards",
    "api_reference",
    "sphinx.ext.linkcode",
    "page_figure",
    "page_tools",
    "told_to_others",
]

# The gallery's notebooks are for readers to download; myst-nb must not run them again.
exclude_patterns = [
    "_build",
    "_ext",
    "_node",
    "gallery/**/*.ipynb",
    "gallery/_foot",
    "gallery/_cards",
]
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb"}
nitpicky = True
# `name` in a docstring links where the name is known and is plain text where it is an argument.
default_role = "autolink"
suppress_warnings = [
    # Sphinx cannot pickle some values that extensions put into the configuration.
    "config.cache",
]
if not execute:
    # The lexer of a notebook's cells is known only from a kernel that ran.
    suppress_warnings.append("myst-nb.lexer")

autodoc_typehints = "none"
autodoc_default_options = {"member-order": "bysource"}
autosummary_generate = False
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
numpydoc_xref_param_type = False

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 3
nb_execution_mode = "cache" if execute else "off"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_execution_show_tb = True
nb_merge_streams = True
nb_output_stderr = "show"
nb_number_source_lines = False

bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "unsrt"

sphinx_gallery_conf = {
    "examples_dirs": [f"../gallery/{section}" for section in SECTIONS],
    "gallery_dirs": [f"gallery/{section}" for section in SECTIONS],
    "filename_pattern": r"/plot_",
    "ignore_pattern": r"/(?!plot_)[^/]*\.py$",
    "within_subsection_order": "FileNameSortKey",
    "plot_gallery": execute,
    # Two workers, each with its own TensorFlow; a page about speed runs alone.
    "parallel": 2 if os.environ.get("BNREF_DEVICE", "CPU") == "CPU" else False,
    "reset_modules": ("foot.watch",),
    "reset_modules_order": "both",
    "capture_repr": (),
    "image_srcset": ["2x"],
    "image_scrapers": ("alternative_texts.scraper",),
    "remove_config_comments": True,
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 1e9,  # the foot says it
    "write_computation_times": False,  # that page loads scripts from another host
    "download_all_examples": False,
    "doc_module": ("bnref",),
    "backreferences_dir": "gallery/_backreferences",
}

html_theme = "pydata_sphinx_theme"
html_title = "bnref: batch normalization in TensorFlow, by experiment"
html_short_title = "bnref"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css", "search.css"]
html_js_files = [(name, {"defer": "defer"}) for name in ("search_field.js", "card_filters.js")]
templates_path = ["_templates"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
html_last_updated_fmt = None
html_sidebars = {
    page: []
    for page in (
        "index",
        "symptoms",
        "search",
        "variants",
        "conformance",
        "explorer",
        "upstream",
        "upstream/*",
        "on_record",
        "api",
        "contributing",
    )
}
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is
html_theme_options = {
    "logo": {"text": "bnref"},
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "navbar_persistent": ["search-button"],
    "secondary_sidebar_items": ["page-toc", "page-tools"],
    "show_prev_next": False,
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "back_to_top_button": False,
    "header_links_before_dropdown": 8,
}
