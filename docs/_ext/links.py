"""Check a built site: its own links lead somewhere, and every public name is in it.

    python docs/_ext/links.py docs/_build/html

(LinkChecker reads a page anew for each anchor that is linked to, which takes minutes.)
"""

from __future__ import annotations

import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import kernelpot


class Page(HTMLParser):
    """Links and anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors = {"", "top"}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag links to, and what it can be called."""
        for name, value in attrs:
            if value is None:
                continue
            if name in ("href", "src"):
                self.links.append(value)
            elif name in ("id", "name"):
                self.anchors.add(value)


def broken(folder: Path) -> list[str]:
    """Links that lead nowhere, as sentences."""
    pages = {path.resolve(): Page(path) for path in sorted(folder.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            where = path.relative_to(folder.resolve())
            if not target.exists():
                found.append(f"{where}: there is no {link}")
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{where}: {link} has no such anchor")
    return found


def undocumented(folder: Path) -> list[str]:
    """Public names, and methods of public classes, that are not in the inventory of the site."""
    lines = (folder / "objects.inv").read_bytes().split(b"\n", 4)[4]
    known = {line.split(" ")[0] for line in zlib.decompress(lines).decode().splitlines()}
    wanted = []
    for name in kernelpot.__all__:
        if name == "__version__":
            continue
        wanted.append(f"kernelpot.{name}")
        value = getattr(kernelpot, name)
        if isinstance(value, type):
            own = [m for m, v in vars(value).items() if callable(v) or isinstance(v, property)]
            wanted += [f"kernelpot.{name}.{m}" for m in own if not m.startswith("_")]
    found = [name for name in wanted if name not in known]
    print(f"{len(wanted) - len(found)} of {len(wanted)} public names and methods are documented")
    return [f"{name} is not documented" for name in found]


if __name__ == "__main__":
    site = Path(sys.argv[1])
    found = broken(site) + undocumented(site)
    print("\n".join(found) or "all links within the site lead somewhere")
    sys.exit(bool(found))
