"""What a fit has come to, and can continue from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ase.data import chemical_symbols

from kernelpot.common.types import Array, Progress
from kernelpot.data.dataset import Frame
from kernelpot.fit.accumulation import FactorTree
from kernelpot.fit.progress import nth_of
from kernelpot.fit.settings import Settings
from kernelpot.fit.sparse_points import MAX_CANDIDATE_BYTES, choose_sparse_points
from kernelpot.gp.blocks import BoundTerm
from kernelpot.gp.design import Design
from kernelpot.terms.base import Term


@dataclass(frozen=True)
class State:
    """What a fit has come to, and can continue from.

    Attributes
    ----------
    design : Design
    notes : sequence of str
        On the choice of sparse points.
    tree : FactorTree
        Grows while labels are streamed.
    unseen : sequence of int
        Frames that no sparse point was chosen from.
    """

    design: Design
    notes: Sequence[str]
    tree: FactorTree
    unseen: Sequence[int] = ()

    @classmethod
    def chosen(
        cls,
        terms: Sequence[Term],
        species: tuple[int, ...],
        frames: Sequence[Frame],
        *,
        held_out: Sequence[int] = (),
        settings: Settings,
        usual: Sequence[int] | None = None,
        constants: Mapping[int, Mapping[str, Array]] | None = None,
        candidate_bytes: float = MAX_CANDIDATE_BYTES,
        n_threads: int = 1,
        progress: Progress | None = None,
    ) -> State:
        """Choose the sparse points of some terms among the environments of some frames.

        Parameters
        ----------
        terms : sequence of Term
        species : tuple of int
        frames : sequence of Frame
            In canonical order.
        held_out : sequence of int
            Frames to choose from only where the others hold too little.
        settings : Settings
            Given sparse points, the usual number of them, and the seed.
        usual : sequence of int, optional
            That number for each term instead.
        constants : mapping of int to mapping, optional
            Of terms (by their index) that learned theirs from labels.
        candidate_bytes : float
            Memory for features to select from.
        n_threads : int
        progress : callable, optional

        Returns
        -------
        State

        Raises
        ------
        ValueError
            If more points are asked for than there are environments, there are none, or
            given ones leave out a species.
        """
        points, notes, unseen = [], [], held_out
        bound = []
        hidden = set(held_out)
        seen = [frame.atoms for index, frame in enumerate(frames) if index not in hidden]
        for index, term in enumerate(terms):
            known_before = (constants or {}).get(index)
            own, found = (known_before, []) if known_before else term.learned(species, seen)
            bound.append(BoundTerm.of(term, species, own or None))
            notes += [f"term {index}: {note}" for note in found]
        for index, known in enumerate(bound):
            given = None if settings.sparse_points is None else settings.sparse_points[index]
            chosen = choose_sparse_points(
                known,
                index,
                frames,
                held_out=held_out,
                given=given,
                default_n_sparse=settings.default_n_sparse if usual is None else usual[index],
                seed=settings.seed,
                candidate_bytes=candidate_bytes,
                n_threads=n_threads,
                progress=None if progress is None else nth_of(progress, index, len(bound)),
            )
            points += chosen.points
            notes += [f"term {index}: {note}" for note in chosen.notes]
            unseen = () if chosen.from_all else unseen
        design = Design.of(species, bound, points)
        _check_every_species(design, given=settings.sparse_points is not None)
        return cls(design, notes, FactorTree(design.n_columns), unseen)


def _check_every_species(design: Design, *, given: bool) -> None:
    """Refuse a design of nothing, or given points that leave out a species."""
    if not design.n_sparse:
        r_cut = ", ".join(f"{term.descriptor.r_cut:g}" for term in design.terms)
        raise ValueError(
            f"the data have no environment of any term (r_cut {r_cut} Å): no two atoms are that "
            "close; use a longer cutoff, or add a term such as kernelpot.SOAPTerm"
        )
    missing = [chemical_symbols[z] for z in design.species if not design.n_points_of(z)]
    if given and missing and all(term.descriptor.has_centers for term in design.terms):
        raise ValueError(
            f"`sparse_points` has no environment of {', '.join(missing)} in any term: add one, "
            "or leave a term's list out to have it selected"
        )
