"""The kinds of terms, by their name in files and configurations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kernelpot.terms.acsf import ACSFTerm
from kernelpot.terms.base import Term
from kernelpot.terms.charges import KernelCharges
from kernelpot.terms.coulomb_matrix import CoulombMatrixTerm
from kernelpot.terms.custom import CustomTerm
from kernelpot.terms.gdml import GDMLTerm
from kernelpot.terms.linear_map import LinearMap
from kernelpot.terms.lode import LODETerm
from kernelpot.terms.pair import PairTerm
from kernelpot.terms.polynomial_soap import PolynomialSOAP
from kernelpot.terms.soap import SOAPTerm
from kernelpot.terms.triplet import TripletTerm

KINDS = (
    SOAPTerm,
    PairTerm,
    TripletTerm,
    ACSFTerm,
    GDMLTerm,
    CoulombMatrixTerm,
    CustomTerm,
    LODETerm,
    LinearMap,
    PolynomialSOAP,
)
# Beside other terms, as they learn from labels before these are fitted.
LEARNED_FROM_LABELS = (KernelCharges,)
TERMS: dict[str, type[Any]] = {term.kind: term for term in (*KINDS, *LEARNED_FROM_LABELS)}
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


def term_to_dict(term: Term) -> dict[str, Any]:
    """Plain data of a term, of which it is known that they give it back.

    Parameters
    ----------
    term : Term

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        If they do not: its kind is not among `TERMS`, or a field is no plain data.
    """
    data = term.to_dict()
    try:
        same = term_from_dict(data) == term
    except (ValueError, TypeError) as error:
        raise ValueError(f"{term!r} cannot be saved: {error}") from error
    if not same:
        raise ValueError(
            f"{term!r} cannot be saved: its fields do not come back from plain data as they were"
        )
    return data
