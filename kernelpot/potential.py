"""The whole model: fit to labelled structures, predict, save, load."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from ase.units import GPa

from kernelpot import defaults, storage
from kernelpot.atomic_energies import AtomicEnergies, atomic_energies
from kernelpot.baseline import BaselineTerm, terms_of
from kernelpot.checks import label_sources
from kernelpot.covariance import KernelTerm
from kernelpot.dataset import Dataset, Frame, LabelKeys, read_dataset
from kernelpot.default_baseline import choose_baseline
from kernelpot.evaluation import LocalModel
from kernelpot.fitted import FittedModel, posterior_variances
from kernelpot.fitting import (
    Design,
    Progress,
    accumulate,
    canonical_order,
    choose_sparse_points,
    peak_bytes,
)
from kernelpot.metrics import evaluate
from kernelpot.neighbors import NeighborList
from kernelpot.observations import SIGMA_ISOLATED, Noise, bulk_volume
from kernelpot.parallel import thread_count
from kernelpot.prediction import Prediction
from kernelpot.report import summary_text
from kernelpot.scan import assemble
from kernelpot.terms import SOAPTerm

if TYPE_CHECKING:
    from kernelpot.calculator import KernelPotCalculator

FloatArray = npt.NDArray[np.float64]


class KernelPotential:
    """A sparse Gaussian-process interatomic potential.

    Local energies are a sum of SOAP kernels (GAP [1]_); what is added to them is the
    energy of isolated atoms and a short-range repulsive wall. Everything left out is
    chosen from the training data and explained by `summary`.

    Parameters
    ----------
    terms : sequence of SOAPTerm, optional
        SOAP kernels to sum; by default two of different range, three with several species.
    preset : {"fast", "default", "accurate"}
        Sparse points per term that names no number: 300, 1,000 or 3,000, or all distinct
        environments if there are fewer.
    n_sparse : int, optional
        Sparse points per term that names no number, instead of the preset's; more than
        there are distinct environments is an error.
    sigma_energy : float, optional
        Noise of an energy per atom [eV]; a total energy of N atoms has
        ``sigma_energy * sqrt(N)``.
    sigma_forces : float, optional
        Noise of a force component [eV/Å].
    sigma_stress : float, optional
        Noise of a stress component [eV/Å^3].
    config_type_sigma : mapping, optional
        Noise of some groups, ``{"Surface": {"energy": ..., "forces": ..., "stress":
        ...}}``, same units. Values in ``atoms.info`` (``sigma_energy``,
        ``sigma_forces``, ``sigma_virial``) are absolute and override these.
    e0 : mapping of symbol to float, "isolated" or "least_squares", optional
        Energies of isolated atoms [eV]; by default from isolated atoms in the data,
        else by least squares.
    baseline : term or sequence of terms, optional
        What is added to the kernels besides free atoms, such as ``[Wall(),
        PairBaseline(...)]``; an empty sequence for nothing. By default a wall and a
        fitted Morse function per pair of species, or the wall alone (``[Wall()]``)
        where a small model predicts structures left out worse with them.
    sparse_points : sequence, optional
        Per term a list of ``(atoms, center)`` to use as sparse points, or None.
    seed : int, default=0
        For random choices among the data.

    Attributes
    ----------
    fitted_ : FittedModel
        What the fit found: species, terms with sparse points and weights, e0, baseline,
        noise, the factor an update continues from, the virial offset of the labels, and
        the record of the training.

    References
    ----------
    .. [1] Bartók, Csányi, Int. J. Quantum Chem. 115, 1051 (2015).
    """

    def __init__(
        self,
        terms: Sequence[SOAPTerm] | None = None,
        *,
        preset: str = "default",
        n_sparse: int | None = None,
        sigma_energy: float | None = None,
        sigma_forces: float | None = None,
        sigma_stress: float | None = None,
        config_type_sigma: Mapping[str, Mapping[str, float]] | None = None,
        e0: Mapping[str, float] | str | None = None,
        baseline: BaselineTerm | Sequence[BaselineTerm] | None = None,
        sparse_points: Sequence[Sequence[tuple[Atoms, int]] | None] | None = None,
        seed: int = 0,
    ) -> None:
        self.terms = terms
        self.preset = preset
        self.n_sparse = n_sparse
        self.sigma_energy = sigma_energy
        self.sigma_forces = sigma_forces
        self.sigma_stress = sigma_stress
        self.config_type_sigma = config_type_sigma
        self.e0 = e0
        self.baseline = baseline
        self.sparse_points = sparse_points
        self.seed = seed

    # ---- fitting -------------------------------------------------------------------

    def fit(
        self,
        data: Any,
        *,
        keys: LabelKeys | None = None,
        memory: float | str | None = None,
        n_threads: int | None = None,
        progress: Progress | None = None,
    ) -> KernelPotential:
        """Fit to labelled structures.

        Parameters
        ----------
        data : path, glob pattern, Dataset, ase.Atoms or sequence of these
            Whatever `read_dataset` takes.
        keys : LabelKeys, optional
            Names of the labels.
        memory : float or str, optional
            Budget in bytes, or such as ``"2GB"``; refused before any work where the
            factor of the chosen number of sparse points does not fit.
        n_threads : int, optional
            Default: ``KERNELPOT_NUM_THREADS`` or the free cores. The result does not
            depend on it.
        progress : callable, optional
            Called as ``progress(stage, done, total)``.

        Returns
        -------
        self : KernelPotential

        Raises
        ------
        ValueError
            If data or parameters are unusable; the message names the remedy.
        """
        started = time.perf_counter()
        threads = thread_count(n_threads)
        dataset = Dataset(canonical_order(read_dataset(data, keys=keys)))
        species = dataset.species
        e0 = atomic_energies(dataset, self._given_e0())
        terms, notes = self._choose_terms(dataset, e0)
        notes += _isolated_notes(dataset, e0)
        noise, noise_notes = self._choose_noise(dataset)
        notes += noise_notes
        if self.baseline is None:
            if progress is not None:
                progress("baseline", 0, 1)
            baseline, baseline_notes = choose_baseline(
                dataset, species, e0, terms, noise, seed=self.seed
            )
            notes += baseline_notes
        else:
            baseline = terms_of(self.baseline)
        reference, baseline_notes = assemble(baseline, dataset, species, e0)
        notes += baseline_notes
        n_default = defaults.N_SPARSE[self.preset]
        threads = _fit_memory(memory, terms, n_default, dataset.n_atoms, threads)

        frames = canonical_order(_with_isolated_atoms(dataset, e0))
        references = [reference.labels(frame.atoms) for frame in frames]
        kernel_terms = []
        for index, term in enumerate(terms):
            kernel_term, found = choose_sparse_points(
                term,
                species,
                frames,
                given=None if self.sparse_points is None else self.sparse_points[index],
                default_n_sparse=n_default,
                seed=self.seed,
                progress=progress,
            )
            kernel_terms.append(kernel_term)
            notes += [f"term {index}: {note}" for note in found]
        _check_every_species(kernel_terms, species)
        design = Design.of(kernel_terms, species)
        grouped = accumulate(
            design, frames, references, noise, n_threads=threads, progress=progress
        )
        factor = grouped.posterior(noise.sigma)
        solution = factor.solve()
        present = sorted({z for z, _ in design.whitening})
        columns = {z: design.whitened.species(z) for z in present}
        local = LocalModel(
            kernel_terms,
            design.weights(solution),
            design.whitening,
            posterior_variances(kernel_terms, factor, columns),
        )
        offset = design.virial_offset(solution)
        training: dict[str, Any] = {
            "n_structures": len(dataset),
            "n_atoms": dataset.n_atoms,
            "n_rows": factor.n_rows,
            "config_types": dataset.config_types,
            "sources": label_sources(dataset),
            "notes": notes + _virial_note(offset, dataset),
        }
        fitted = FittedModel(species, reference, local, factor, noise, offset, training)
        if progress is not None:
            progress("training errors", 0, 1)
        training["errors"] = evaluate(fitted, dataset, n_threads=threads)
        training["wall_seconds"] = time.perf_counter() - started
        self.fitted_ = fitted
        self._golden = storage.smallest([frame.atoms for frame in frames])
        return self

    def _given_e0(self) -> Mapping[int, float] | str | None:
        if self.e0 is None or isinstance(self.e0, str):
            if self.e0 not in (None, "isolated", "least_squares"):
                raise ValueError(
                    f"`e0` must be a mapping, 'isolated' or 'least_squares', got {self.e0!r}"
                )
            return self.e0
        wrong = [symbol for symbol in self.e0 if symbol not in atomic_numbers]
        if wrong:
            raise ValueError(f"`e0`: not a chemical symbol: {', '.join(map(repr, wrong))}")
        return {atomic_numbers[symbol]: float(e) for symbol, e in self.e0.items()}

    def _choose_terms(self, data: Dataset, e0: AtomicEnergies) -> tuple[list[SOAPTerm], list[str]]:
        if self.preset not in defaults.N_SPARSE:
            raise ValueError(
                f"`preset` must be one of {', '.join(defaults.N_SPARSE)}, got {self.preset!r}"
            )
        if self.terms is not None:
            if not self.terms:
                raise ValueError("`terms` must hold at least one SOAPTerm, got none")
            terms = list(self.terms)
            if self.n_sparse is not None:
                if all(t.n_sparse is not None for t in terms):
                    raise ValueError(
                        "`n_sparse` has no effect: every term names its own number; change "
                        "the terms, or leave n_sparse out of them"
                    )
                terms = [
                    t if t.n_sparse is not None else replace(t, n_sparse=self.n_sparse)
                    for t in terms
                ]
            if self.sparse_points is not None and len(self.sparse_points) != len(self.terms):
                raise ValueError(
                    "`sparse_points` must have one entry per term, got "
                    f"{len(self.sparse_points)} for {len(self.terms)}"
                )
            return terms, []
        if self.sparse_points is not None:
            raise ValueError("`sparse_points` needs explicit `terms`")
        return defaults.terms(data, e0, n_sparse=self.n_sparse)

    def _choose_noise(self, data: Dataset) -> tuple[Noise, list[str]]:
        sigmas, notes = defaults.sigmas(data)
        for name in ("sigma_energy", "sigma_forces", "sigma_stress"):
            value = getattr(self, name)
            if value is not None:
                sigmas[name] = float(value)
                notes = [note for note in notes if not note.startswith(name)]
        unknown = set(self.config_type_sigma or {}) - set(data.config_types)
        if unknown:
            raise ValueError(
                f"`config_type_sigma` names {', '.join(sorted(unknown))}; the data have "
                f"{', '.join(sorted(data.config_types))}"
            )
        noise = Noise(
            **sigmas,
            config_types=dict(self.config_type_sigma or {}),
            bulk_volume=bulk_volume(list(data)),
        )
        return noise, notes

    # ---- prediction ----------------------------------------------------------------

    @property
    def model(self) -> FittedModel:
        """What `fit` found; immutable, a new fit makes a new one."""
        if not hasattr(self, "fitted_"):
            from sklearn.exceptions import NotFittedError

            raise NotFittedError("this KernelPotential is not fitted yet: call fit()")
        return self.fitted_

    @property
    def r_cut(self) -> float:
        """Distance beyond which atoms do not interact [Å]."""
        return self.model.r_cut

    def predict(
        self,
        atoms: Atoms,
        *,
        return_std: bool = False,
        gate: bool = False,
        neighbors: NeighborList | None = None,
        n_threads: int | None = None,
    ) -> Prediction:
        """Predict energy, forces and stress.

        Parameters
        ----------
        atoms : ase.Atoms
            Any periodicity; not modified.
        return_std : bool, default=False
            Also compute `energies_std` and `spilling`.
        gate : bool, default=False
            Only False: this version has no variance gate.
        neighbors : NeighborList, optional
            A list valid for `atoms` to at least `r_cut`; searched for if not given.
        n_threads : int, optional
            As in `fit`.

        Returns
        -------
        Prediction

        Raises
        ------
        ValueError
            If the structure has a species the model does not know, or is not sound.
        """
        if gate:
            raise ValueError("`gate` must be False: this version has no variance gate")
        return self.model.predict(
            atoms, return_std=return_std, neighbors=neighbors, n_threads=n_threads
        )

    def predict_many(
        self,
        structures: Sequence[Atoms],
        *,
        return_std: bool = False,
        n_threads: int | None = None,
        names: Sequence[str] | None = None,
    ) -> Iterator[Prediction]:
        """Predict many structures; small ones are evaluated together, which is faster.

        Parameters
        ----------
        structures : sequence of ase.Atoms
        return_std : bool, default=False
            As in `predict`.
        n_threads : int, optional
            As in `fit`.
        names : sequence of str, optional
            What to call the structures in messages.

        Yields
        ------
        Prediction
            Of each structure in turn, equal to `predict` to rounding.

        Raises
        ------
        ValueError
            Before anything is computed, if a structure has an unknown species or is not
            sound.
        """
        yield from self.model.predict_many(
            structures, return_std=return_std, n_threads=n_threads, names=names
        )

    def local_std(self, atoms: Atoms, *, n_threads: int | None = None) -> FloatArray:
        """Posterior standard deviation of each local energy, without forces.

        Parameters
        ----------
        atoms : ase.Atoms
        n_threads : int, optional
            As in `fit`.

        Returns
        -------
        ndarray of shape (n_atoms,)
            [eV]; the `energies_std` of `predict`.
        """
        return self.model.local_std(atoms, n_threads=n_threads)

    def variance_gradient(self, atoms: Atoms, weights: FloatArray) -> FloatArray:
        """Gradient of a weighted sum of local variances by the positions.

        Parameters
        ----------
        atoms : ase.Atoms
        weights : ndarray of shape (n_atoms,)
            Weight of each atom's variance.

        Returns
        -------
        ndarray of shape (n_atoms, 3)
            [eV^2/Å].
        """
        return self.model.variance_gradient(atoms, weights)

    def calculator(self, **options: Any) -> KernelPotCalculator:
        """ASE calculator of this potential.

        Parameters
        ----------
        **options
            See `KernelPotCalculator`.

        Returns
        -------
        KernelPotCalculator
        """
        from kernelpot.calculator import KernelPotCalculator

        return KernelPotCalculator(self, **options)

    # ---- reports -------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """Everything that was chosen and found, as plain data.

        Returns
        -------
        dict
            Species, terms, sparse counts and ranks, sigmas, e0, baseline, training
            counts and errors.
        """
        return self.model.describe()

    def summary(self) -> str:
        """Explain in words what was chosen, from what, and how well it fits.

        Returns
        -------
        str
            Text with units, to be printed.
        """
        return summary_text(self.describe(), self.model.baseline)

    # ---- file ----------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to one ``.kpot`` file (no pickle), replacing it atomically.

        Parameters
        ----------
        path : path

        Raises
        ------
        FileNotFoundError
            If there is no such directory.
        """
        storage.save(self.model, path, self._golden, self._parameters())

    def _parameters(self) -> dict[str, Any]:
        """Arguments of the constructor (given sparse points are not kept in files)."""
        names = (
            "terms", "preset", "n_sparse", "sigma_energy", "sigma_forces", "sigma_stress",
            "config_type_sigma", "e0", "baseline", "seed",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, verify: bool = True) -> KernelPotential:
        """Read a model file.

        Parameters
        ----------
        path : path
        verify : bool, default=True
            Recompute the stored golden structure and compare.

        Returns
        -------
        KernelPotential

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ModelFileError
            If the file is foreign, truncated, altered, too new, or the golden
            structure is not reproduced on this machine.
        """
        fitted, golden, parameters = storage.load(path, verify=verify)
        self = cls(**parameters)
        self.fitted_, self._golden = fitted, golden
        return self


def load(path: str | os.PathLike[str], *, verify: bool = True) -> KernelPotential:
    """Read a model file; see `KernelPotential.load`.

    Parameters
    ----------
    path : path
    verify : bool, default=True
        Recompute the stored golden structure and compare.

    Returns
    -------
    KernelPotential
    """
    return KernelPotential.load(path, verify=verify)


def parse_memory(memory: float | str) -> float:
    """Bytes meant by a number or by text such as ``"2GB"`` or ``"500 MB"``.

    Raises
    ------
    ValueError
        If the text is not a size.
    """
    if isinstance(memory, str):
        text = memory.strip().upper().removesuffix("B").removesuffix("I")
        units = {"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
        scale = units.get(text[-1:], 1.0)
        try:
            value = float(text.rstrip("KMGT").strip()) * scale
        except ValueError:
            value = -1.0
    else:
        value = float(memory)
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"`memory` must be a size such as '2GB' or bytes, got {memory!r}")
    return value


def _fit_memory(
    memory: float | str | None, terms: Sequence[SOAPTerm], default: int, n_atoms: int, threads: int
) -> int:
    """Threads that a memory budget allows; refuse where not even one does."""
    if memory is None:
        return threads
    budget = parse_memory(memory)
    counts = [t.n_sparse or min(default, n_atoms) for t in terms]
    while threads > 1 and peak_bytes(sum(counts), threads) > budget:
        threads -= 1
    needed = peak_bytes(sum(counts), threads)
    if needed > budget:
        affordable = next((m for m in range(sum(counts), 0, -10) if peak_bytes(m, 1) <= budget), 0)
        remedy = (
            f"the budget holds {affordable // len(counts)} points per term: lower n_sparse or "
            "raise the budget"
            if affordable
            else "any fit needs more: raise the budget"
        )
        raise ValueError(
            f"{sum(counts)} sparse points need {needed / 1e9:.2f} GB, the memory budget is "
            f"{budget / 1e9:.2f} GB; {remedy}"
        )
    return threads


def _with_isolated_atoms(data: Dataset, e0: AtomicEnergies) -> list[Frame]:
    """Frames to fit; each species with a known e0 gets one isolated atom of that energy."""
    frames = [f for f in data if not (f.is_isolated_atom and e0.absolute)]
    if e0.absolute:
        for z, energy in e0.e0.items():
            atoms = Atoms(numbers=[z], positions=np.zeros((1, 3)))
            frames.append(
                Frame(
                    atoms,
                    energy,
                    None,
                    None,
                    "isolated_atom",
                    f"isolated {chemical_symbols[z]}",
                    {"energy": e0.origin},
                    {"energy": SIGMA_ISOLATED},
                )
            )
    return frames


def _check_every_species(terms: Sequence[KernelTerm], species: Sequence[int]) -> None:
    missing = [
        chemical_symbols[number]
        for z, number in enumerate(species)
        if not any(z in term.sparse for term in terms)
    ]
    if missing:
        raise ValueError(
            f"`sparse_points` has no environment of {', '.join(missing)} in any term: add one, "
            "or leave a term's list out to have it selected"
        )


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


def _virial_note(offset: float, data: Dataset) -> list[str]:
    """Say so where virials contradict energies by a constant (above 20 meV/atom)."""
    labelled = [f for f in data if f.virial is not None]
    if abs(offset) < 0.02 or not labelled:
        return []
    volume = float(np.median([f.atoms.get_volume() / len(f) for f in labelled]))
    return [
        f"virial labels contradict the energies by a constant {offset:+.3f} eV/atom (about "
        f"{offset / volume / GPa:+.2f} GPa of pressure; an unconverged basis does this). The "
        "energies were followed: predicted stresses differ from the labels by that much"
    ]
