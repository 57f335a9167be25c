"""The documentation site: ``sphinx-build -W --keep-going docs site``. Sphinx, MyST and Furo, and MyST-NB for notebooks."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

from filterdb import __version__

project = "filterdb"
author = "the filterdb authors"
project_copyright = author
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "command_help"]
exclude_patterns = ["_build"]
suppress_warnings = ["mystnb.unknown_mime_type"]

# Furo: one column of text, navigation at the side, readable on a phone, light and dark.
html_theme = "furo"
html_title = f"filterdb {version}"
html_static_path = ["static"]
html_css_files = ["filterdb.css"]
html_show_sphinx = False
html_copy_source = False

# MyST: Markdown that GitHub shows as well. Anchors of headings are those of GitHub.
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

# Notebooks lie here without outputs, and are run where they have none.
nb_execution_mode = "auto"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True

# The API comes from docstrings in Google's style.
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_use_type_comments = False
napoleon_numpy_docstring = False
napoleon_use_rtype = False
maximum_signature_line_length = 88
python_use_unqualified_type_names = True
