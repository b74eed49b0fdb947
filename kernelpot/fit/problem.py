"""What a fit knows before the kernels: e0, baseline, terms, noise, and what is held out.

`prepare` makes the choices that the user left open from the data, with a note on each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from kernelpot.baseline.free_atoms import AtomicEnergies, atomic_energies
from kernelpot.baseline.reference import Reference, terms_of
from kernelpot.baseline.repulsion import assemble
from kernelpot.common.types import Array
from kernelpot.data.dataset import Dataset, Frame
from kernelpot.data.order import canonical_order, fingerprint
from kernelpot.fit import defaults
from kernelpot.fit.added_frames import is_assumed, with_added_frames
from kernelpot.fit.charges import learn_charges
from kernelpot.fit.default_baseline import choose_baseline
from kernelpot.fit.hold_out import hold_out
from kernelpot.fit.settings import Settings
from kernelpot.gp.labels import Noise, bulk_volume
from kernelpot.terms.base import Descriptor, Term


@dataclass(frozen=True)
class Problem:
    """Everything known before the kernels.

    Attributes
    ----------
    dataset : Dataset
        In canonical order.
    species : tuple of int
    terms : list of Term
    noise : Noise
    reference : Reference
        What the kernels need not explain.
    frames : list of Frame
        What is fitted, with labels less what `reference` explains: the data, and what
        `kernelpot.fit.added_frames` puts beside them.
    fingerprints : list of str
        Of these frames with their labels as they are.
    notes : list of str
        Choices made, for the user.
    noise_notes : mapping of str to str
        Why the defaults of the noise are what they are, by parameter.
    held_out : list of int
        Those of `frames` that sparse points are not chosen from.
    constants : mapping of int to mapping
        Of terms (by their index) that learned theirs from labels: charges, after the kernels.
    """

    dataset: Dataset
    species: tuple[int, ...]
    terms: Sequence[Term]
    noise: Noise
    reference: Reference
    frames: Sequence[Frame]
    fingerprints: Sequence[str]
    notes: Sequence[str]
    noise_notes: Mapping[str, str] = field(default_factory=dict)
    held_out: Sequence[int] = ()
    constants: Mapping[int, Mapping[str, Array]] = field(default_factory=dict)

    @cached_property
    def descriptors(self) -> list[Descriptor]:
        """Descriptor of each term for the species of the data."""
        return [
            term.descriptor(self.species, self.constants.get(t))
            for t, term in enumerate(self.terms)
        ]

    @property
    def n_kernels(self) -> int:
        """Number of terms that are kernels of local environments."""
        return len(self.terms) - len(self.constants)


def prepare(
    data: Dataset, settings: Settings, *, basis: defaults.Basis | None = None, n_threads: int = 1
) -> Problem:
    """Choose e0, terms, noise and baseline; cheap, so that every refusal comes first.

    Parameters
    ----------
    data : Dataset
    settings : Settings
    basis : {"sparse", "form"}, optional
        Of default terms; by default that of the material.
    n_threads : int

    Returns
    -------
    Problem

    Raises
    ------
    ValueError
        If data or parameters are unusable; the message names the remedy.
    """
    dataset = Dataset(canonical_order(data))
    species = dataset.species
    noise, noise_notes = _choose_noise(settings, dataset)
    e0 = atomic_energies(dataset, _given_e0(settings.e0))
    if settings.baseline is None:
        terms, _ = _choose_terms(settings, dataset, e0, basis)
        explained, baseline_notes = choose_baseline(
            dataset, species, e0, terms, noise, seed=settings.seed, n_threads=n_threads
        )
    else:
        explained, baseline_notes = assemble(terms_of(settings.baseline), dataset, species, e0)
    reference = explained.reference
    e0 = reference.e0
    # the scale of the kernels: of what the baseline leaves
    terms, notes = _choose_terms(settings, explained.without_terms(), e0, basis)
    charged, own_charges = None, settings.charges
    if own_charges is not None:
        own_charges = own_charges.suited(defaults.length_scale(dataset)[0])
        frames = canonical_order(with_added_frames(dataset, e0))
        charged = learn_charges(
            own_charges,
            dataset,
            explained.remainders(frames),
            terms,
            noise,
            absolute=e0.absolute,
            seed=settings.seed,
        )
        notes = [*notes, *charged.notes]
    constants: dict[int, Mapping[str, Array]] = {}
    if own_charges is not None and charged is not None and charged.constants is not None:
        explained = explained.beside(charged.energies(own_charges, dataset))
        e0 = explained.reference.e0
        terms, _ = _choose_terms(settings, explained.without_terms(), e0, basis)
        explained = explained.beside(None)
        constants[len(terms)] = charged.constants
        terms = [*terms, own_charges]
    reference = explained.reference
    frames = canonical_order(with_added_frames(dataset, e0))
    return Problem(
        dataset,
        dataset.species,
        terms,
        noise,
        reference,
        explained.remainders(frames),
        [fingerprint(frame) for frame in frames],
        [*notes, *baseline_notes, *_isolated_notes(dataset, e0)],
        noise_notes,
        _held_out(frames),
        constants,
    )


def _held_out(frames: Sequence[Frame]) -> list[int]:
    """Frames that sparse points are not chosen from; none that is there a second time."""
    again = [frame.atoms for frame in frames if is_assumed(frame)]
    once = [i for i, f in enumerate(frames) if not any(f.atoms is atoms for atoms in again)]
    found = hold_out([(frames[i].config_type, frames[i].atoms.numbers) for i in once])
    return [once[i] for i in found]


def _given_e0(
    e0: Mapping[str, float] | Mapping[int, float] | str | None,
) -> Mapping[int, float] | str | None:
    if e0 is None or isinstance(e0, str):
        if e0 not in (None, "isolated", "least_squares", "average"):
            raise ValueError(
                "`e0` must be a mapping, 'isolated' or 'least_squares' (MACE's 'average'), got "
                f"{e0!r}"
            )
        return "least_squares" if e0 == "average" else e0
    found: dict[int, float] = {}
    wrong = []
    for element, energy in e0.items():
        z = atomic_number(element)
        if z is None:
            wrong.append(element)
        elif z in found:
            raise ValueError(f"`e0` has two values for {chemical_symbols[z]}")
        elif not np.isfinite(float(energy)):
            raise ValueError(f"`e0` of {chemical_symbols[z]} is {energy}; it must be finite")
        else:
            found[z] = float(energy)
    if wrong:
        raise ValueError(
            "`e0`: neither a chemical symbol nor an atomic number: " + ", ".join(map(repr, wrong))
        )
    return found


def atomic_number(element: object) -> int | None:
    """Atomic number of a symbol, of a number, or of a number as text; None of others."""
    text = str(element)
    if text in atomic_numbers and text != "X":
        return int(atomic_numbers[text])
    if text.isdecimal() and 0 < int(text) < len(chemical_symbols):
        return int(text)
    return None


def _choose_terms(
    settings: Settings, data: Dataset, e0: AtomicEnergies, basis: defaults.Basis | None
) -> tuple[list[Term], list[str]]:
    if settings.preset not in defaults.N_SPARSE:
        raise ValueError(
            f"`preset` must be one of {', '.join(defaults.N_SPARSE)}, got {settings.preset!r}"
        )
    if settings.terms is None:
        if settings.sparse_points is not None:
            raise ValueError("`sparse_points` needs explicit `terms`")
        chosen, notes = defaults.terms(
            data, e0, n_sparse=settings.n_sparse, preset=settings.preset, basis=basis
        )
        return [*chosen], notes
    terms = list(settings.terms)
    if not terms:
        raise ValueError("`terms` must hold at least one term, got none")
    for term in terms:
        if isinstance(term, type) or not hasattr(term, "descriptor"):
            raise TypeError(f"`terms` must hold terms such as SOAPTerm(...), got {term!r}")
    if settings.n_sparse is not None:
        if all(t.n_sparse is not None for t in terms):
            raise ValueError(
                "`n_sparse` has no effect: every term names its own number; change "
                "the terms, or leave n_sparse out of them"
            )
        terms = [
            t if t.n_sparse is not None else t.changed(n_sparse=settings.n_sparse) for t in terms
        ]
    if settings.sparse_points is not None and len(settings.sparse_points) != len(terms):
        raise ValueError(
            "`sparse_points` must have one entry per term, got "
            f"{len(settings.sparse_points)} for {len(terms)}"
        )
    return terms, []


def _choose_noise(settings: Settings, data: Dataset) -> tuple[Noise, dict[str, str]]:
    sigmas, notes = defaults.sigmas(data)
    for name in ("sigma_energy", "sigma_forces", "sigma_stress"):
        value = getattr(settings, name)
        if value is not None:
            sigmas[name] = float(value)
            del notes[name]
    config_types = {
        name: {k: sigmas.get(f"sigma_{k}", np.nan) if v is None else v for k, v in own.items()}
        for name, own in settings.own_sigmas.items()
    }
    unknown = set(config_types) - set(data.config_types)
    if unknown:
        raise ValueError(
            f"`config_type_sigma` names {', '.join(sorted(unknown))}; the data have "
            f"{', '.join(sorted(data.config_types))}"
        )
    noise = Noise(**sigmas, config_types=config_types, bulk_volume=bulk_volume(list(data)))
    return noise, notes


def _isolated_notes(data: Dataset, e0: AtomicEnergies) -> list[str]:
    """Say so where isolated atoms in the data contradict the e0 used."""
    notes = []
    for frame in data:
        if frame.is_isolated_atom and frame.energy is not None and e0.absolute:
            number = int(frame.atoms.numbers[0])
            if abs(frame.energy - e0.e0[number]) > 0.01:
                notes.append(
                    f"{frame.name}: the isolated {chemical_symbols[number]} of "
                    f"{frame.energy:.4f} eV is not used; e0 is {e0.e0[number]:.4f} eV ({e0.origin})"
                )
    return notes
