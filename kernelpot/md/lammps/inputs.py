"""An input for LAMMPS in which ``pair_style kernelpot`` stands, as stock LAMMPS can read it.

Two of its lines are ours::

    pair_style  kernelpot gate on
    pair_coeff  * * si.kpot Si

The first becomes ``pair_style zero``. The second leaves the file (``jump`` to an empty one), so
that the potential is attached from outside; reading is resumed at a label behind it. All else is
LAMMPS' own, loops by ``jump SELF`` included.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

# What may follow the name of the style, and the values it may have; None for any.
OPTIONS: dict[str, tuple[str, ...] | None] = {
    "gate": ("on", "off"),
    "on_gate": ("warn", "stop", "none"),
    "std": ("local", "none"),
    "threads": None,
    "earlier_fixes": None,
}
# The pair style that LAMMPS does not know.
STYLE = "kernelpot"
# The variable that says which line was reached.
STOP = "kernelpot_stop"
# What the neighbors of `pair_style zero` reach to until the model is known [Å].
_ANY_REACH = "1.0"


@dataclass(frozen=True)
class Attaching:
    """A ``pair_coeff`` of kernelpot.

    Attributes
    ----------
    where : str
        File and line, for messages.
    options : dict of str to str
        Of the pair style.
    words : sequence of str
        Model file and elements, in which variables may stand.
    """

    where: str
    options: dict[str, str]
    words: Sequence[str]


@dataclass
class Rewritten:
    """An input that LAMMPS can read.

    Attributes
    ----------
    lines : list of str
    attachings : list of Attaching
        In the order of the file: the label behind the first is ``kernelpot_0``.
    """

    lines: list[str] = field(default_factory=list)
    attachings: list[Attaching] = field(default_factory=list)


def rewrite(path: str, stop_file: str) -> Rewritten:
    """Read an input, and put what LAMMPS knows in place of kernelpot's lines.

    Parameters
    ----------
    path : str
    stop_file : str
        An empty file to jump to.

    Returns
    -------
    Rewritten

    Raises
    ------
    ValueError
        With file and line, for what cannot be.
    OSError
        If a file cannot be read.
    """
    rewriter = _Rewriter(path, stop_file)
    rewriter.add_file(path, included=False)
    if not rewriter.result.attachings:
        raise ValueError(
            f"{path} has no `pair_style {STYLE}` with its `pair_coeff * * MODEL.kpot ELEMENTS`: "
            "for other inputs there is LAMMPS' own lmp"
        )
    return rewriter.result


def substituted(lmp: Any, word: str) -> str:
    """A word with LAMMPS' variables filled in.

    Raises
    ------
    ValueError
        If there is no such variable, or it is of another form than ``${name}`` or ``$x``.
    """

    def value(match: re.Match[str]) -> str:
        name = match.group(1) or match.group(2)
        found = lmp.extract_variable(name)
        if found is None:
            raise ValueError(f"`{word}`: there is no variable {name!r}")
        return f"{found:.15g}" if isinstance(found, float) else str(found)

    result = re.sub(r"\$\{(\w+)\}|\$([A-Za-z])", value, word)
    if "$" in result:
        raise ValueError(f"`{word}`: of variables, ${{name}} and $x are understood here")
    return result


class _Rewriter:
    def __init__(self, path: str, stop_file: str) -> None:
        self._path = path
        self._stop_file = stop_file
        self._plain = False
        self._options: dict[str, str] = {}
        self._quoted = False
        self._where = path
        self.result = Rewritten()

    def add_file(self, path: str, *, included: bool) -> None:
        """Add the lines of a file."""
        with open(path, encoding="utf-8") as file:
            raw = file.read().splitlines()
        number = 0
        while number < len(raw):
            first = number
            line = raw[number]
            while line.rstrip().endswith("&") and number + 1 < len(raw):
                number += 1
                line = line.rstrip()[:-1] + " " + raw[number]
            number += 1
            self._where = f"{path}, line {first + 1}"
            before, self._quoted = self._quoted, self._quoted ^ (line.count('"""') % 2 == 1)
            if before:  # inside of text that spans lines
                self.result.lines.extend(raw[first:number])
                continue
            words = line.split("#")[0].split()
            if included and words and (words[0] == "label" or "jump" in words):
                self._refuse("a file that is included and has lines of kernelpot has no labels")
            self._add(line, words, raw[first:number])

    def _add(self, line: str, words: list[str], raw: list[str]) -> None:
        command = words[0] if words else ""
        if command == "pair_style":
            self._style(words)
        elif command == "pair_coeff" and self._is_ours(words):
            self._coefficients(words)
        elif command == "include" and len(words) == 2 and self._has_style(words[1]):
            self.add_file(words[1], included=True)
        else:
            self._refuse_silent(words)
            self.result.lines.extend(self._to_itself(text) for text in raw)

    def _style(self, words: list[str]) -> None:
        """Put `zero` in place of kernelpot; its options are kept for the coefficients."""
        hybrid = len(words) > 1 and words[1].startswith("hybrid")
        self._plain = len(words) > 1 and words[1] == STYLE
        if STYLE not in words:
            self.result.lines.append(" ".join(words))
            return
        if words.count(STYLE) > 1:
            self._refuse("one potential of kernelpot, not two")
        if not self._plain and not (hybrid and words[1] == "hybrid/overlay"):
            self._refuse(
                f"`pair_style {words[1]}`: beside other styles kernelpot is one of hybrid/overlay"
            )
        if "zero" in words:
            self._refuse("pair_style zero is what kernelpot stands on: leave it out")
        place = words.index(STYLE)
        stop = place + 1
        self._options = {}
        while stop < len(words) and (self._plain or words[stop] in OPTIONS):
            self._option(words, stop)
            stop += 2
        new = [*words[:place], "zero", _ANY_REACH, "full", *words[stop:]]
        self.result.lines.append(" ".join(new))

    def _option(self, words: list[str], at: int) -> None:
        name = words[at]
        if name not in OPTIONS:
            self._refuse(f"pair_style kernelpot has no {name!r}; it has {', '.join(OPTIONS)}")
        values = OPTIONS[name]
        value = words[at + 1] if at + 1 < len(words) else ""
        wrong = not value or (values is not None and value not in values)
        if wrong or (name == "threads" and not (value.isdecimal() and int(value))):
            expected = "a number" if name == "threads" else " or ".join(values or ("ID,ID,...",))
            self._refuse(f"`{name}` of pair_style kernelpot is {expected}, got {value!r}")
        self._options[name] = value

    def _is_ours(self, words: list[str]) -> bool:
        return self._plain or (len(words) > 3 and words[3] == STYLE)

    def _coefficients(self, words: list[str]) -> None:
        """Leave the file where the potential is to be attached."""
        own = words[3:] if self._plain else words[4:]
        if words[1:3] != ["*", "*"] or len(own) < 2:
            self._refuse(
                "kernelpot acts on all atoms: `pair_coeff * * MODEL.kpot ELEMENT [ELEMENT ...]` "
                f"with an element for each type, got `{' '.join(words)}`"
            )
        index = len(self.result.attachings)
        self.result.attachings.append(Attaching(self._where, dict(self._options), own))
        self.result.lines += [
            f"variable {STOP} string {index}",
            f'jump "{self._stop_file}"',
            f"label kernelpot_{index}",
        ]

    def _has_style(self, path: str) -> bool:
        """Whether a file that is included has lines for kernelpot."""
        if "$" in path or not os.path.exists(path):
            return False  # LAMMPS says what is wrong, if anything is
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
        ours = rf"^\s*pair_(style|coeff)\b.*\b{STYLE}\b"
        plain = self._plain and re.search(r"^\s*pair_coeff\b", text, re.M)
        return bool(plain or re.search(ours, text, re.M))

    def _to_itself(self, text: str) -> str:
        """A jump to the input by its own name leads to what it has become."""
        return re.sub(rf"\bjump\s+{re.escape(self._path)}(?=\s|\"|'|$)", "jump SELF", text)

    def _refuse_silent(self, words: list[str]) -> None:
        """Refuse settings with which LAMMPS asks for no forces, or hands over no pairs."""
        start = words[:2]
        if start == ["run_style", "respa"]:
            self._refuse("run_style respa never asks kernelpot for forces: use `run_style verlet`")
        if start in (["suffix", "kk"], ["package", "kokkos"]):
            self._refuse("with KOKKOS, LAMMPS keeps atoms where kernelpot does not see them")
        excluded = words[words.index("exclude") + 1 :] if "exclude" in words else []
        if words[:1] == ["neigh_modify"] and excluded[:1] not in ([], ["none"]):
            self._refuse("neigh_modify exclude takes pairs away that kernelpot needs")

    def _refuse(self, what: str) -> None:
        raise ValueError(f"{self._where}: {what}")
