"""The documentation site: `make docs` builds docs/*.md into build/site with Sphinx, and fails on a broken link.

The pages are plain Markdown that also reads well on GitHub, so what only the site needs is here: which page comes after which,
and the two files of the repository's top that the site shows as pages of its own.
"""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

project = "slotstream"
html_title = "slotstream"
extensions = ["myst_parser"]
html_theme = "pydata_sphinx_theme"
html_theme_options = {"header_links_before_dropdown": 9, "show_nav_level": 2, "secondary_sidebar_items": ["page-toc"], "footer_end": []}
html_sidebars = {"**": ["sidebar-nav-bs"]}
html_show_sourcelink = False
html_copy_source = False
exclude_patterns = ["conf.py"]
myst_heading_anchors = 4  # as GitHub makes them, so that one link works in both places
suppress_warnings = ["misc.highlighting_failure"]

# Page to the pages below it, in reading order. A page that is missing here fails the build.
NAVIGATION = {
    "index": ["quickstart", "concepts", "tutorials/index", "reference", "operations/index", "architecture/index", "contributing"],
    "tutorials/index": ["tutorials/csv", "tutorials/keras2", "tutorials/anomalies", "tutorials/scaling", "recipes"],
    "reference": [
        "records",
        "alarms",
        "models",
        "kinds-of-models",
        "csv-files",
        "guarantees",
        "configuration",
        "commands",
        "metrics",
        "benchmarks",
        "demo",
        "changelog",
    ],
    "operations/index": [
        f"operations/{page}"
        for page in (
            *("configure", "containers", "kubernetes", "systemd", "sizing", "security", "scaling", "upgrades", "backup"),
            *("watching", "sensors", "drift", "state", "alerts", "when-it-stops", "exit-codes"),
        )
    ],
    "architecture/index": [
        *(f"architecture/{page}" for page in ("promise", "engine", "commit", "alarms", "checkpoints", "restore", "failures", "judging")),
        "decisions/index",
    ],
    "contributing": ["code-map", "verify"],
    "decisions/index": sorted(f"decisions/{path.stem}" for path in Path(__file__).parent.glob("decisions/[0-9]*.md")),
}

# Pages of the site that are files at the top of the repository.
TOP = {"contributing": "CONTRIBUTING.md", "changelog": "CHANGELOG.md"}


def complete(_app: Any, page: str, source: list[str]) -> None:
    """Fetches a page from the top of the repository, leads links to such files to their pages, and adds what stands in NAVIGATION."""
    if page in TOP:
        source[0] = re.sub(r"\]\((?:docs/)?(?=[\w.])(?!https?:)", "](/", (ROOT / TOP[page]).read_text(encoding="utf-8"))
    for name, file in TOP.items():
        source[0] = re.sub(rf"\]\((?:\.\./|/)*{re.escape(file)}", f"](/{name}.md", source[0])
    if page in NAVIGATION:
        below = "\n".join(f"/{name}" for name in NAVIGATION[page])
        source[0] += f"\n```{{toctree}}\n:hidden:\n\n{below}\n```\n"


def setup(app: Any) -> None:
    app.connect("source-read", complete)
