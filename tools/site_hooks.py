"""What the site of the documentation (``mkdocs.yml``) needs beyond mkdocs.

Pages link to files of the repository, and are read there too. On the site such a link leads to a
copy: Python files become pages, all else is taken along as it is. A link to what is not there is a
warning, and so an error of a strict build.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

_LOG = logging.getLogger("mkdocs.plugins.site_hooks")
_LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")
_FOLDER = "source"
"""Where the copies lie on the site."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a copy of every file outside of the documentation that a page links to."""
    root = Path(config.config_file_path).parent
    for page in list(files.documentation_pages()):
        for match in _LINK.finditer(page.content_string):
            outside = _outside(page, match[1])
            if outside is None or files.get_file_from_path(_copy_of(outside)):
                continue
            if not (root / outside).is_file():
                _LOG.warning("'%s' links to '%s', which is no file", page.src_uri, outside)
                continue
            content = (root / outside).read_text()
            if outside.endswith(".py"):
                content = f"# {outside}\n\n````python\n{content}````\n"
            place = _copy_of(outside)
            level = InclusionLevel.NOT_IN_NAV
            files.append(File.generated(config, place, content=content, inclusion=level))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Lead links to the copies, and write ``|`` in the code of tables as mkdocs does."""

    def to_copy(match: re.Match[str]) -> str:
        outside = _outside(page.file, match[1])
        if outside is None:
            return match[0]
        here = posixpath.dirname(page.file.src_uri)
        return f"]({posixpath.relpath(_copy_of(outside), here or '.')}{match[2] or ''})"

    lines = _LINK.sub(to_copy, markdown).splitlines()
    # Elsewhere a table's code needs the backslash; here it would be shown.
    return "\n".join(
        re.sub(r"`[^`]+`", lambda code: code[0].replace("\\|", "|"), line)
        if line.startswith("|")
        else line
        for line in lines
    )


def _outside(page: File, link: str) -> str | None:
    """The path in the repository that a page links to; None where it is on the site anyway."""
    if ":" in link or link.startswith("/"):
        return None
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.src_uri), link))
    return None if path.startswith("docs/") else path


def _copy_of(outside: str) -> str:
    return f"{_FOLDER}/{outside}.md" if outside.endswith(".py") else f"{_FOLDER}/{outside}"
