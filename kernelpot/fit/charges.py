r"""Charges by environment from energies and forces, before the fit of the kernels.

The coefficients :math:`\beta` of charges (`kernelpot.terms.charges`) and the weights w of a
small local model minimize together

.. math:: |y - \Phi w - E(\beta)|^2 + |w|^2 + (\beta - \mu)^\top \Lambda (\beta - \mu)

in units of the noise. The local part is eliminated: its Gram matrix is constant (variable
projection [1]_). Passes of Gauss and Newton, damped by the prior wherever the objective would not
fall (Levenberg and Marquardt), begin with charges per species alone, from several starts.
:math:`\Lambda` and :math:`\mu` hold what is known without energies: kernels, the totals of
structures before they are neutralized, and labels of charges and dipoles, all of which are
linear.

Local models of finite range explain part of what charges do, and charges part of what other
interactions do: data without any give spurious ones. Charges are used where structures left
out of all this have smaller errors of forces with them.

References
----------
.. [1] Golub, Pereyra, SIAM J. Numer. Anal. 10, 413 (1973).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kernelpot.common.parallel import single_blas_thread
from kernelpot.common.types import KINDS, Array, FloatArray
from kernelpot.data.dataset import Dataset, Frame
from kernelpot.data.system import System
from kernelpot.fit.added_frames import is_assumed
from kernelpot.fit.charges_passes import Passes, SmallModel
from kernelpot.fit.charges_prior import ChargesPrior
from kernelpot.gp.labels import Noise
from kernelpot.terms.base import Term
from kernelpot.terms.charges import KernelCharges, check_periodicity, total_charge

# Atoms of the structures that charges are learned from, at most.
MAX_ATOMS = 2500
# Every so many structures are left out to see whether charges help: by this share of the errors
# of forces at least, and by so many standard errors.
FOLDS = 4
WORTHWHILE = 0.03
STANDARD_ERRORS = 2.0
MINIMUM_LEFT_OUT = 4


@dataclass(frozen=True)
class LearnedCharges:
    """Charges that a fit found, and what it has to say.

    Attributes
    ----------
    constants : mapping of str to ndarray, or None
        For `KernelCharges.descriptor`; None where charges are not used.
    notes : list of str
    """

    constants: Mapping[str, Array] | None
    notes: list[str]

    def energies(self, term: KernelCharges, data: Dataset) -> list[float]:
        """Electrostatic energy of each frame at the charges found [eV].

        Parameters
        ----------
        term : KernelCharges
        data : Dataset
        """
        if self.constants is None:
            return [0.0] * len(data)
        descriptor = term.descriptor(data.species, self.constants)
        beta, n = descriptor.at, len(descriptor.at)
        # in coefficients themselves: the energy is linear in them around the ones found
        plain = replace(descriptor, mean=np.zeros(n), whitening=np.eye(n))
        found = []
        for frame in data:
            system = System.of([frame.atoms], descriptor.r_cut)
            x = plain.environments(system, slice(0, system.n_atoms)).x[0]
            found.append(float(x[:-1] @ beta + x[-1]))
        return found


@single_blas_thread()
def learn_charges(
    term: KernelCharges,
    data: Dataset,
    frames: Sequence[Frame],
    terms: Sequence[Term],
    noise: Noise,
    *,
    absolute: bool,
    seed: int = 0,
) -> LearnedCharges:
    """Find charges, and decide whether they are used.

    Parameters
    ----------
    term : KernelCharges
    data : Dataset
        For distances.
    frames : sequence of Frame
        In canonical order; labels less what the kernels need not explain.
    terms : sequence of Term
        Of the local model.
    noise : Noise
    absolute : bool
        Whether energies of free atoms are known; else compositions may shift energies.
    seed : int

    Returns
    -------
    LearnedCharges

    Raises
    ------
    ValueError
        If a structure is periodic along one or two directions, or names no sound charge.
    """
    species = data.species
    for frame in frames:
        check_periodicity(frame.atoms, frame.name)
        total_charge(frame.atoms)
    some = [f for f in frames if (len(f) > 1 or total_charge(f.atoms)) and not is_assumed(f)]
    every = max(1, -(-sum(map(len, some)) // MAX_ATOMS))
    some = some[::every]
    prior = ChargesPrior.of(term, data, some, seed=seed)
    labels = SmallModel.of(some, terms, species, noise, absolute=absolute, seed=seed)
    out = np.arange(len(some)) % FOLDS == FOLDS // 2
    asked = bool(prior.charged or prior.n_labelled)
    notes: list[str] = []
    start = None
    if term.gate:
        if out.sum() < MINIMUM_LEFT_OUT:
            return LearnedCharges(
                None,
                [
                    f"charges are not used: {len(some)} structures are too few to see whether they "
                    "help; KernelCharges(gate=False) uses them all the same"
                ],
            )
        inside = Passes(prior, labels.take(~out))
        start = inside.run()
        verdict, used = _judge(inside, start, labels.take(out))
        notes.append(verdict)
        if not used:
            return LearnedCharges(None, notes)
    passes = Passes(prior, labels)
    beta = passes.run(start)
    beta, sign = prior.signed(beta, some, free=not asked)
    notes.append(
        f"charges from {len(some)} structures in {passes.n} passes, to {passes.fall:.2g} of the "
        f"objective without them; sign: {sign}"
    )
    notes.append("charges [e]: " + prior.summary(beta, some))
    return LearnedCharges(prior.constants(beta), notes)


def _judge(passes: Passes, beta: FloatArray, out: SmallModel) -> tuple[str, bool]:
    """Whether structures left out have smaller errors with charges, and that in words."""
    kind = "forces" if np.any(out.kind == KINDS.index("forces")) else "energy"
    rows = out.kind == KINDS.index(kind)
    owner = out.owner[rows]
    sizes = np.bincount(owner, minlength=len(out.frames))
    seen = sizes > 0
    squares = [
        np.bincount(owner, passes.errors(b, out)[rows] ** 2, minlength=len(sizes))[seen]
        for b in (None, beta)
    ]
    n = int(sizes.sum())
    without, with_charges = (float(np.sqrt(s.sum() / n)) for s in squares)
    gain = squares[0] - squares[1]
    error = float(gain.std() * np.sqrt(len(gain)))
    used = with_charges < (1.0 - WORTHWHILE) * without and gain.sum() > STANDARD_ERRORS * error
    unit = "eV/Å" if kind == "forces" else "eV"
    words = (
        f"{kind} of {int(seen.sum())} structures left out are off by {with_charges:.4f} {unit} "
        f"with them, {without:.4f} without (a small model, for comparison)"
    )
    return (f"charges are used: {words}" if used else f"charges are not used: {words}"), used
