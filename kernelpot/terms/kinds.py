"""The kinds of terms, by their name in files and configurations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kernelpot.terms.base import Term
from kernelpot.terms.linear_map import LinearMap
from kernelpot.terms.pair import PairTerm
from kernelpot.terms.soap import SOAPTerm

TERMS: dict[str, type[Any]] = {term.kind: term for term in (SOAPTerm, PairTerm, LinearMap)}
# Of a term that names none.
DEFAULT_KIND = SOAPTerm.kind


def term_from_dict(data: Mapping[str, Any]) -> Term:
    """Rebuild a term from plain data.

    Parameters
    ----------
    data : mapping
        As from `Term.to_dict`; ``"kind"`` may be left out for the default kind.

    Returns
    -------
    Term

    Raises
    ------
    ValueError
        If the kind is unknown.
    TypeError
        If a field is unknown or missing.
    """
    kind = data.get("kind", DEFAULT_KIND)
    if kind not in TERMS:
        raise ValueError(f"unknown kind of term {kind!r}; there are {', '.join(TERMS)}")
    term: Term = TERMS[kind].from_dict(data)
    return term
