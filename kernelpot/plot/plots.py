"""What a potential draws of itself: ``pot.plot``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from kernelpot.common.types import Pair, Progress
from kernelpot.data.dataset import Dataset, LabelKeys
from kernelpot.data.reading import read_dataset
from kernelpot.plot import draw
from kernelpot.plot.comparison import Reliability, parity, reliability
from kernelpot.plot.environments import environment_map
from kernelpot.plot.learning import learning_curve
from kernelpot.plot.protocol import Potential
from kernelpot.plot.scans import dimer_curve, scan, strain_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Trainable(Potential, Protocol):
    """A potential that can be fitted anew."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters of its constructor."""


class Plots:
    """Pictures of a potential, as ``pot.plot``.

    Every method takes matplotlib axes to draw on, makes a figure of one panel where none are
    given, and returns the axes, so that whatever matplotlib can do can be done to them. Units
    are on the axes, colours are told apart with any colour vision. matplotlib is imported by
    the first picture.

    Parameters
    ----------
    potential : KernelPotential
        Fitted.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> import kernelpot as kp
    >>> from kernelpot.datasets import load_silicon
    >>> terms = [kp.SOAPTerm(r_cut=4.0, n_max=4, l_max=3, n_sparse=50)]
    >>> pot = kp.KernelPotential(terms).fit(load_silicon(), optimize=None, self_test=False)
    >>> axes = pot.plot.parity(load_silicon("test"), "forces")
    >>> axes.get_xlabel()
    'label, force component [eV/Å]'
    >>> axes.figure.savefig("parity.png")
    """

    def __init__(self, potential: Trainable) -> None:
        self._potential = potential

    def __repr__(self) -> str:
        """Name the pictures there are."""
        names = [n for n in vars(type(self)) if not n.startswith("_")]
        return f"pictures of a potential: {', '.join(names)}"

    def parity(
        self,
        data: Any,
        quantity: str = "energy",
        *,
        label: str | None = None,
        axes: Axes | None = None,
        keys: LabelKeys | None = None,
        n_threads: int | None = None,
    ) -> Axes:
        """Predictions against labels.

        Parameters
        ----------
        data : path, Dataset, ...
            Whatever `read_dataset` takes.
        quantity : {"energy", "forces", "stress"}
            Energies are relative to free atoms [eV/atom], forces [eV/Å] and stresses [GPa] are
            drawn component by component.
        label : str, optional
            What to call all of them in the legend, for several sets on the same axes; without,
            colours tell config types apart.
        axes : matplotlib.axes.Axes, optional
        keys : LabelKeys, optional
            Names of the labels.
        n_threads : int, optional
            As in `KernelPotential.fit`.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ValueError
            If the data have no such labels.
        """
        dataset = read_dataset(data, keys=keys)
        predictions = self._potential.predict_many(
            [frame.atoms for frame in dataset],
            n_threads=n_threads,
            names=[frame.name for frame in dataset],
        )
        found = parity(self._potential, dataset, predictions)
        if quantity not in found:
            raise ValueError(
                f"`quantity` must be one of the labels of these data ({', '.join(found)}), "
                f"got {quantity!r}"
            )
        return draw.draw_parity(axes, found[quantity], label=label)

    def calibration(
        self,
        data: Any,
        *,
        axes: Axes | None = None,
        keys: LabelKeys | None = None,
        n_threads: int | None = None,
    ) -> Axes:
        """Share of force components within their intervals against the share promised.

        On the diagonal intervals hold what they promise, below it they are too narrow. At most
        60 structures, evenly over the data, are looked at.

        Parameters
        ----------
        data : path, Dataset, ...
            Whatever `read_dataset` takes, not fitted.
        axes : matplotlib.axes.Axes, optional
        keys : LabelKeys, optional
        n_threads : int, optional

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ValueError
            If the data have no forces.
        """
        return draw.draw_calibration(axes, self._reliability(data, keys, n_threads))

    def uncertainty(
        self,
        data: Any,
        *,
        axes: Axes | None = None,
        keys: LabelKeys | None = None,
        n_threads: int | None = None,
    ) -> Axes:
        """Errors of force components against their predicted standard deviations.

        Where standard deviations are right, the root mean square error of components of about
        the same one lies on the line. At most 60 structures are looked at.

        Parameters
        ----------
        data : path, Dataset, ...
            Whatever `read_dataset` takes, not fitted.
        axes : matplotlib.axes.Axes, optional
        keys : LabelKeys, optional
        n_threads : int, optional

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ValueError
            If the data have no forces.
        """
        return draw.draw_uncertainty(axes, self._reliability(data, keys, n_threads))

    def learning_curve(
        self,
        train: Any,
        test: Any,
        quantity: str = "forces",
        *,
        sizes: Sequence[int] | None = None,
        seed: int = 0,
        label: str | None = None,
        axes: Axes | None = None,
        keys: LabelKeys | None = None,
        n_threads: int | None = None,
        progress: Progress | None = None,
        **fit: Any,
    ) -> Axes:
        """Error on test structures against the number of training structures.

        Fits as many potentials with the parameters of this one as there are sizes, to random
        parts of the data, each within the next: the last one costs a whole fit.

        Parameters
        ----------
        train, test : path, Dataset, ...
            Whatever `read_dataset` takes.
        quantity : {"energy", "forces", "stress"}
            Mean absolute error [meV/atom, eV/Å or GPa].
        sizes : sequence of int, optional
            Numbers of structures; by default five from 10 up to all.
        seed : int, default=0
            Of the order in which structures are taken.
        label : str, optional
            For the legend.
        axes : matplotlib.axes.Axes, optional
        keys : LabelKeys, optional
        n_threads : int, optional
        progress : callable, optional
            Called as ``progress(stage, done, total)``.
        **fit
            Options of `KernelPotential.fit`; without any the fits are neither calibrated nor
            self-tested, which errors do not depend on.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ValueError
            If there are no such labels or not as many structures.
        """
        new, given = type(self._potential), self._potential.get_params(deep=False)
        options = {"calibrate": False, "self_test": False, "n_threads": n_threads, **fit}
        found = learning_curve(
            lambda data: new(**given).fit(data, **options),  # type: ignore[attr-defined]
            read_dataset(train, keys=keys),
            read_dataset(test, keys=keys),
            kind=quantity,
            sizes=sizes,
            seed=seed,
            n_threads=n_threads,
            progress=progress,
        )
        return draw.draw_learning_curve(axes, found, label)

    def dimers(
        self,
        pairs: str | Iterable[str] | None = None,
        *,
        axes: Axes | None = None,
        n_threads: int | None = None,
    ) -> Axes:
        """Energy of two atoms against their distance, from the wall to beyond the cutoff.

        Of one pair of species: with the gate and by the kernels alone (± 2 standard
        deviations), the wall (baseline), the shortest distance of the data, and shaded where
        the gate acts. Of several: with the gate, thin where it acts.

        Parameters
        ----------
        pairs : str or iterable of str, optional
            Such as ``"Si-O"``; by default all pairs of species of the model.
        axes : matplotlib.axes.Axes, optional
        n_threads : int, optional

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ValueError
            If the model does not know a species.
        """
        species = self._potential.model.species
        if pairs is None:
            chosen: list[Pair] = list(combinations_with_replacement(species, 2))
        else:
            names = [pairs] if isinstance(pairs, str) else list(pairs)
            chosen = [_pair(name, species) for name in names]
        curves = [dimer_curve(self._potential, pair, n_threads=n_threads) for pair in chosen]
        return draw.draw_dimers(axes, curves)

    def scan(
        self,
        structures: Atoms | Sequence[Atoms],
        x: Iterable[float] | None = None,
        *,
        x_label: str = "x",
        title: str | None = None,
        axes: Axes | None = None,
        n_threads: int | None = None,
    ) -> Axes:
        """Energy along a path, with the gate and without, and where the gate acts.

        Parameters
        ----------
        structures : ase.Atoms or sequence of ase.Atoms
            A structure to compress and stretch uniformly, or those along a path (a torsion, a
            reaction).
        x : iterable of float, optional
            Of one structure: factors of all lengths (0.6 to 1.3 by default). Of several: where
            each is on the path (its number by default).
        x_label : str, default="x"
            Name and unit of x, along a path.
        title : str, optional
            Of the picture; by default what the structure is.
        axes : matplotlib.axes.Axes, optional
        n_threads : int, optional

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ValueError
            If the model refuses a structure, or there are not as many x as structures.
        """
        if isinstance(structures, Atoms):
            curve = strain_curve(
                self._potential, structures, name=title, factors=x, n_threads=n_threads
            )
        else:
            path = list(structures)
            where = np.arange(float(len(path))) if x is None else np.array(list(x), dtype=float)
            curve = scan(
                self._potential,
                where,
                path,
                name=title or "",
                x_label=x_label,
                n_threads=n_threads,
            )
        return draw.draw_curve(axes, curve)

    def sparse_points(
        self,
        data: Any,
        species: str | None = None,
        *,
        term: int | None = None,
        axes: Axes | None = None,
        keys: LabelKeys | None = None,
        n_threads: int | None = None,
    ) -> Axes:
        """Map of the environments of a species, with the sparse points among them.

        The features of the environments (2,000 at most, evenly over the data) are projected
        onto their two leading principal components: near each other is what a kernel holds to
        be alike. Colours are local standard deviations.

        Parameters
        ----------
        data : path, Dataset, ...
            Whatever `read_dataset` takes.
        species : str, optional
            Symbol of the central atoms; by default the most frequent one of the data.
        term : int, optional
            Number of the term, from 0; by default the first that compares whole environments
            of atoms (as SOAP does, and pairs do not).
        axes : matplotlib.axes.Axes, optional
        keys : LabelKeys, optional
        n_threads : int, optional

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ValueError
            If there are no such atoms, or no such term.
        """
        number = None if species is None else _number(species, self._potential.model.species)
        found = environment_map(
            self._potential.model,
            read_dataset(data, keys=keys),
            number=number,
            term=term,
            n_threads=n_threads,
        )
        return draw.draw_map(axes, found)

    def _reliability(self, data: Any, keys: LabelKeys | None, n_threads: int | None) -> Reliability:
        dataset: Dataset = read_dataset(data, keys=keys)
        found = reliability(self._potential, dataset, n_threads=n_threads)
        if found is None:
            raise ValueError("the data have no forces to judge standard deviations by")
        return found


def _number(symbol: str, species: Sequence[int]) -> int:
    """Atomic number of a species that the model knows."""
    number = atomic_numbers.get(symbol.strip())
    if number is None or number not in species:
        from ase.data import chemical_symbols

        known = ", ".join(chemical_symbols[z] for z in species)
        raise ValueError(f"the potential knows {known}, not {symbol!r}")
    return number


def _pair(name: str, species: Sequence[int]) -> Pair:
    """Two species from a name such as ``"Si-O"``."""
    parts = name.split("-")
    if len(parts) != 2:
        raise ValueError(f"a pair of species is written as 'Si-O', got {name!r}")
    a, b = sorted(_number(part, species) for part in parts)
    return a, b
