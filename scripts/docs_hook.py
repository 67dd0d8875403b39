"""Hook of mkdocs: adds the pages of the reference, and the files of the repository that pages link to.

A link that leads out of docs/, such as ../conf/cluster.yaml, works where the repository is looked at as it is. In the
site it leads to a copy below repository/: Markdown as a page, everything else as it is.
"""

import posixpath
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import reference  # noqa: E402

COPIES = "repository"
_LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#]+)?(#[^)\s]*)?(\))")
_FENCE = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)
_FETCHED = re.compile(
    r"""<(?:script|img|iframe)\b[^>]*\bsrc=["']?(?:https?:)?//[^>]*>"""
    r"""|<link\b[^>]*\brel=["']?(?:stylesheet|preconnect|preload|icon)[^>]*\bhref=["']?(?:https?:)?//[^>]*>"""
    r"""|<link\b[^>]*\bhref=["']?(?:https?:)?//[^>]*\brel=["']?(?:stylesheet|preconnect|preload|icon)[^>]*>"""
    r"""|(?:@import\s+["']?|url\(["']?)(?:https?:)?//[^)"';]*"""
)
_ORIGIN: dict[str, str] = {}
"""Page to the file of the repository that it is a copy of, for pages below repository/."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what the code tells of itself, and what pages link to outside of docs/."""
    for path, text in reference.pages().items():
        files.append(File.generated(config, path, content=text))
    _ORIGIN.clear()
    waiting = [(f"docs/{file.src_uri}", file.content_string) for file in files.documentation_pages()]
    while waiting:
        origin, text = waiting.pop()
        for target in _outside(origin, text):
            copy = f"{COPIES}/{target}"
            if copy in _ORIGIN:
                continue
            _ORIGIN[copy] = target
            file = File.generated(config, copy, abs_src_path=str(ROOT / target))
            files.append(file)
            if target.endswith(".md"):
                waiting.append((target, file.content_string))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Lead links to where their targets are in the site."""
    here = page.file.src_uri
    origin = _ORIGIN.get(here, f"docs/{here}")

    def moved(path: str) -> str:
        target = _target(origin, path)
        if target is None or (target.startswith("docs/") and origin.startswith("docs/")):
            return path
        place = target.removeprefix("docs/") if target.startswith("docs/") else f"{COPIES}/{target}"
        return posixpath.relpath(place, posixpath.dirname(here) or ".")

    return _mapped(markdown, moved)


def on_post_build(config: MkDocsConfig) -> None:
    """No page makes its reader's browser fetch something from elsewhere."""
    for file in sorted(Path(config.site_dir).rglob("*")):
        if file.suffix in (".html", ".css") and (found := _FETCHED.search(file.read_text("utf-8"))):
            raise PluginError(f"{file}: fetches from elsewhere: {found[0]}")


def _outside(origin: str, text: str) -> list[str]:
    """Files of the repository beyond docs/ that a text links to."""
    found: list[str] = []
    _mapped(text, lambda path: found.append(_target(origin, path) or "") or path)
    return [target for target in found if target and not target.startswith("docs/")]


def _target(origin: str, path: str) -> str | None:
    """The file of the repository that a link means; None for addresses, and for what is not there."""
    if "://" in path or path.startswith(("mailto:", "/")):
        return None
    target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path))
    return target if (ROOT / target).is_file() else None


def _mapped(text: str, change: Callable[[str], Any]) -> str:
    """A text whose links, outside of fenced code, lead elsewhere."""
    parts = _FENCE.split(text)
    for number in range(0, len(parts), 2):
        parts[number] = _LINK.sub(
            lambda match: f"{match[1]}{change(match[2]) if match[2] else ''}{match[3] or ''}{match[4]}", parts[number]
        )
    return "".join(parts)
