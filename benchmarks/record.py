"""Run a benchmark and keep what it prints, for the page of the documentation that shows it.

    python benchmarks/record.py NAME accuracy/zuo2020.py DATA_DIR [OPTIONS ...]

Writes ``benchmarks/results/NAME.txt``: command, commit, date and versions, then the output.
Commit it; the documentation is made from these files.
"""

import argparse
import datetime
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent


def commit():
    """The present commit, and whether the code differs from it."""

    def git(*words):
        return subprocess.run(
            ["git", *words], cwd=HERE, capture_output=True, text=True, check=True
        ).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "../kernelpot", ".")
    return git("rev-parse", "--short=10", "HEAD") + (" and changes to it" if changed else "")


def main():
    """Run, show, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="of the file in benchmarks/results")
    parser.add_argument("script", help="relative to benchmarks")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    known = ("kernelpot", "numpy", "scipy", "numba")
    # whose folder the data lie in says nothing
    shown = ["DATA_DIR" if Path(a).is_dir() else a for a in given.arguments]
    head = {
        "command": " ".join(["python", f"benchmarks/{given.script}", *shown]),
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "versions": ", ".join(
            [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in known)]
        ),
    }
    found = subprocess.run(
        [sys.executable, str(HERE / given.script), *given.arguments],
        stdout=subprocess.PIPE, text=True, check=True,
    ).stdout  # fmt: skip
    text = "".join(f"# {key}: {value}\n" for key, value in head.items()) + "\n" + found
    path = HERE / "results" / f"{given.name}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
