"""Pages of what was measured, from the output files of the benchmarks (`benchmarks/results`)."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Pages, and what their files start with.
PAGES = {
    "accuracy": "Accuracy",
    "uncertainty": "Uncertainty",
    "safety": "Safety",
    "speed": "Speed",
    "terms": "Each kind of term",
}


def pages() -> dict[str, str]:
    """Pages by file name, in MyST.

    Raises
    ------
    ValueError
        If a result belongs to no page, or says nothing of where it comes from.
    """
    found: dict[str, list[str]] = {name: [f"# {title}\n"] for name, title in PAGES.items()}
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.txt")):
        page = path.stem.split("-")[0]
        if page not in PAGES:
            raise ValueError(f"{path.name}: its name has to start with one of {', '.join(PAGES)}")
        found[page].append(section(path))
    return {f"{name}.md": "\n".join(parts) for name, parts in found.items() if len(parts) > 1}


def section(path: Path) -> str:
    """One result: what it answers, where it comes from, what was printed."""
    head, _, output = path.read_text(encoding="utf-8").partition("\n\n")
    given = dict(line[2:].split(": ", 1) for line in head.splitlines())
    missing = {"command", "commit", "date"} - set(given)
    if missing:
        raise ValueError(f"{path.name} does not say its {', '.join(sorted(missing))}")
    script = ROOT / re.search(r"benchmarks/\S+\.py", given["command"]).group()
    title = given.get("title") or (ast.get_docstring(ast.parse(script.read_text("utf-8"))) or "")
    lines = [
        f"## {title.splitlines()[0].rstrip('.')}\n",
        f"`{given['command']}`<br>\n{given['date']}, commit `{given['commit']}`"
        + (f", {given['versions']}" if "versions" in given else "")
        + (f"; {given['note']}" if "note" in given else "")
        + "\n",
    ]
    # figures recorded with their words are Markdown, what a program prints is what it is
    return "\n".join([*lines, *([output] if "note" in given else blocks(output))])


def blocks(output: str) -> list[str]:
    """Tables of the output as they are, the rest as paragraphs or as it was printed."""
    found = []
    for block in re.split(r"\n\s*\n", output.strip("\n")):
        if block.lstrip().startswith("|") or re.match(r"[A-Z*].*[.;:)]$", block, re.DOTALL):
            found.append(block + "\n")
        else:
            found.append(f"```text\n{block}\n```\n")
    return found
