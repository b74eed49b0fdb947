"""The syntax of a ``gap_fit`` command line: ``name=value``, braces, descriptors between colons."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

# The program, and the name it had until 2018.
_PROGRAM = re.compile(r"(?:^|[\s/;&|`'\"])(?:gap_fit|teach_sparse)(?=[\s\\])")
_OPENING = {"{": "}", '"': '"', "'": "'"}


@dataclass
class GapDescriptor:
    """One descriptor of the ``gap`` option.

    Attributes
    ----------
    name : str
        Such as ``soap``.
    options : dict of str to str
    """

    name: str
    options: dict[str, str] = field(default_factory=dict)


@dataclass
class GapCommand:
    """A command line, taken apart.

    Attributes
    ----------
    options : dict of str to str
        But for ``gap``.
    descriptors : list of GapDescriptor
    """

    options: dict[str, str]
    descriptors: list[GapDescriptor]


def parse_gap_command(text: str) -> GapCommand:
    """Take a ``gap_fit`` command line apart.

    Parameters
    ----------
    text : str
        The command, as in a shell; lines before it and what a shell does with its output are
        passed over.

    Returns
    -------
    GapCommand

    Raises
    ------
    ValueError
        If there is no descriptor, a brace is not closed, or a word has no ``=``.
    """
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    text = "\n".join(lines) if lines else text.replace("#", " ")
    found = _PROGRAM.search(text)
    if found:
        text = text[found.end() :]
    text = re.sub(r"\\\s*\n", " ", text).strip()
    if found:  # the rest of a script
        text = _first_command(text)
    text = text.replace("\\{", "{").replace("\\}", "}")
    options = _options(_words(text), "the command")
    given = next((name for name in ("gap", "descriptor_str") if name in options), None)
    if given is None:
        raise ValueError(
            "there is no gap={...} with descriptors in this command; give the whole gap_fit "
            "command in quotes, or a file that holds it"
        )
    descriptors = []
    for part in _split(options.pop(given), ":"):
        words = _words(_bare(part))
        if not words:
            continue
        name, *rest = words
        if "=" in name:
            raise ValueError(f"a descriptor begins with its name, such as soap, got {name!r}")
        descriptors.append(GapDescriptor(name, _options(rest, f"the descriptor {name}")))
    if not descriptors:
        raise ValueError("gap={...} holds no descriptor")
    return GapCommand(options, descriptors)


def _first_command(text: str) -> str:
    """Text up to the end of the command: of its lines, a redirection, a semicolon."""
    depth, quote = 0, ""
    for k, c in enumerate(text):
        if quote:
            quote = "" if c == quote else quote
        elif c in "\"'":
            quote = c
        elif c in "{}":
            depth += 1 if c == "{" else -1
        elif c == "\n" and re.match(r"\s*[A-Za-z_]\w*\s*=", text[k:]):
            continue  # goes on with an option
        elif depth <= 0 and c in "\n;|>&":
            return re.sub(r"\s\d?$", "", text[:k])
    return text


def _words(text: str) -> list[str]:
    """Words between blanks that are in no braces or quotes; blanks around ``=`` go."""
    text = re.sub(r"\s*=\s*", "=", text)
    return [word for word in _split(re.sub(r"\s+", " ", text), " ") if word]


def _split(text: str, separator: str) -> list[str]:
    """Split at a character outside of braces and quotes.

    Raises
    ------
    ValueError
        If a brace or quote is not closed.
    """
    parts, start = [], 0
    waiting: list[str] = []
    for k, c in enumerate(text):
        if waiting and c == waiting[-1]:
            waiting.pop()
        elif c in _OPENING and not (waiting and waiting[-1] in "\"'"):
            waiting.append(_OPENING[c])
        elif c == separator and not waiting:
            parts.append(text[start:k].strip())
            start = k + 1
    if waiting:
        raise ValueError(f"a {waiting[-1]} is missing in {text[:60]!r}...")
    return [*parts, text[start:].strip()]


def _options(words: list[str], where: str) -> dict[str, str]:
    """Options by name; a name alone is true, as for gap_fit."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = _bare(word).partition("=")
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise ValueError(f"{word!r} in {where} is no option of the form name=value")
        found[name] = _bare(value) if equals else "T"
    return found


def _bare(text: str) -> str:
    """Text without the braces and quotes around all of it."""
    text = text.strip()
    while len(text) > 1 and _OPENING.get(text[0]) == text[-1] and _is_one(text):
        text = text[1:-1].strip()
    return text


def _is_one(text: str) -> bool:
    """Whether the first brace is closed by the last."""
    depth = 0
    for k, c in enumerate(text):
        depth += (c == "{") - (c == "}")
        if depth == 0 and text[0] == "{":
            return k == len(text) - 1
    return True


def numbers(text: str) -> list[float]:
    """Numbers between blanks, commas or colons, braces aside.

    Raises
    ------
    ValueError
        If one of them is none, or there is none at all.
    """
    found = re.sub(r"[{},:\"']", " ", text).split()
    try:
        # Fortran writes 1.0d-8
        values = [float(re.sub(r"[dD]", "e", word)) for word in found]
    except ValueError:
        shell = ": put values in place of the variables of a shell" if "$" in text else ""
        raise ValueError(f"{text!r} stands where gap_fit has a number{shell}") from None
    if not values:
        raise ValueError("nothing stands where gap_fit has a number")
    return values


def is_true(text: str) -> bool:
    """Whether gap_fit takes a value for true."""
    return text.strip().strip(".").upper() in ("T", "TRUE", "1", "YES")
