"""Do error bars of derived properties hold? Potentials drawn from the posterior against labels.

    python benchmarks/uncertainty/properties.py DATA_DIR [--elements Si Mo Cu] [--members 40]

DATA_DIR holds ``zuo2020-Si/train.xyz`` and so on. Half of the frames of strained crystals,
surfaces and vacancies (config types ``Elastic``, ``Surface``, ``Vacancy``) are kept from the fit,
which is one with the defaults. From these frames each of the potentials that `sample` draws
computes

- the lattice constant: the least energy along the strain of one axis;
- cubic elastic constants: slopes of stress with strain, by least squares;
- the energy of each surface, and of each vacancy, over that of the crystal of least energy.

The same formulas, applied to the labels of the same frames, are the truth; stresses less the
constant virial per atom by which those of the training differ from the derivative of the energies,
as in `evaluate` (of copper 0.19 eV, 2.5 GPa: stresses that contradict energies are no error of a
potential). The spread of the potentials about their mean is the error bar. The shipped silicon
(``shipped``) is judged on its surfaces, vacancies and strained crystals of both files likewise.
"""

import argparse
import os
import sys
import warnings

import numpy as np
from ase.units import GPa

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "accuracy"))

from _tables import show

import kernelpot as kp
from kernelpot.datasets import load_silicon

HELD = ("Elastic", "Surface", "Vacancy", "crystal", "surface", "vacancy")
HEADER = ("element", "property", "unit", "labels", "mean", "std", "error / std")


def split(frames):
    """Every other frame of the held-out types, and the rest."""
    held = []
    for name in HELD:
        held += [i for i, f in enumerate(frames) if f.config_type == name][::2]
    rest = [f for i, f in enumerate(frames) if i not in set(held)]
    return kp.Dataset(rest), [frames[i] for i in sorted(held)]


def strain_of(atoms, reference):
    """Voigt strain (xx yy zz yz xz xy, engineering) of a cell."""
    gradient = np.linalg.solve(reference.cell.array, atoms.cell.array)
    strain = 0.5 * (gradient + gradient.T) - np.eye(3)
    return np.array([*np.diag(strain), *(2 * strain[[1, 0, 0], [2, 2, 1]])])


def properties(frames, energies, stresses):
    """Every property, as (name, unit, value), from energies and stresses of the frames."""
    found = []
    strained = [k for k, f in enumerate(frames) if f.config_type in ("Elastic", "crystal")]
    sizes = np.array([len(f) for f in frames])
    per_atom = energies / sizes
    # the reference is the same frame for labels and predictions
    base = min(strained, key=lambda k: frames[k].energy / sizes[k])
    same = [k for k in strained if sizes[k] == sizes[base]]
    strains = np.array([strain_of(frames[k].atoms, frames[base].atoms) for k in same])
    axial = np.abs(strains[:, 3:]).max(axis=1) < 1e-6
    axial &= (np.abs(strains[:, :3]) > 1e-6).sum(axis=1) <= 1
    if axial.sum() >= 5:
        x = strains[axial, :3].sum(axis=1)
        curve = np.polynomial.Polynomial.fit(x, per_atom[same][axial], 3)
        roots = curve.deriv().roots()
        roots = roots[np.isreal(roots)].real
        least = roots[np.argmin(np.abs(roots))] if len(roots) else np.nan
        length = frames[base].atoms.cell.lengths()[0]
        found.append(("cell length of least energy", "Å", length * (1 + least)))
    if len(same) >= 8:
        normal, shear = strains[:, :3], strains[:, 3:]
        sigma = stresses[same] / GPa
        total = normal.sum(axis=1, keepdims=True)
        # sigma_i = s0 + (C11 - C12) e_i + C12 (e_1 + e_2 + e_3)
        columns = [np.ones(3 * len(same)), normal.ravel(), np.repeat(total, 3)]
        fit = np.linalg.lstsq(np.stack(columns, axis=1), sigma[:, :3].ravel(), rcond=None)[0]
        found.append(("C11", "GPa", fit[1] + fit[2]))
        found.append(("C12", "GPa", fit[2]))
        if np.abs(shear).max() > 1e-3:
            weights = (shear**2).sum()
            found.append(("C44", "GPa", (shear * sigma[:, 3:]).sum() / weights))
    for k, frame in enumerate(frames):
        above = energies[k] - sizes[k] * per_atom[base]
        if frame.config_type.lower() == "surface":
            a, b = frame.atoms.cell.array[:2]
            area = np.linalg.norm(np.cross(a, b))
            found.append((f"surface {k}", "J/m^2", 16.02176634 * above / (2 * area)))
        elif frame.config_type.lower() == "vacancy":
            found.append((f"vacancy {k}", "eV", above))
    return found


def judge(name, rest, held, members):
    """Rows of one element."""
    pot = kp.KernelPotential().fit(rest, self_test=False)
    committee = pot.sample(members, rng=0)
    predicted = [committee.predict(f.atoms) for f in held]
    nothing = np.full((members, 6), np.nan)
    stresses = [nothing if p.stresses is None else p.stresses for p in predicted]
    sampled = [
        properties(
            held, np.array([p.energies[m] for p in predicted]), np.array([s[m] for s in stresses])
        )
        for m in range(members)
    ]
    no_label = np.full(6, np.nan)
    offset = pot.model.virial_offset * np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    truth = properties(
        held,
        np.array([f.energy for f in held]),
        np.array(
            [
                no_label
                if f.virial is None
                else -(f.virial - offset * len(f)) / f.atoms.get_volume()
                for f in held
            ]
        ),
    )
    rows, ratios = [], []
    for k, (what, unit, true) in enumerate(truth):
        values = np.array([found[k][2] for found in sampled])
        mean, std = values.mean(), values.std(ddof=1)
        ratios.append((mean - true) / std)
        numbers = (f"{v:.4g}" for v in (true, mean, std))
        rows.append([name, what, unit, *numbers, f"{ratios[-1]:.2f}"])
    return rows, ratios


def main():
    """Print every property, and the shares within one and 1.96 standard deviations."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir")
    parser.add_argument("--elements", nargs="+", default=["shipped", "Si", "Mo", "Cu"])
    parser.add_argument("--members", type=int, default=40)
    parser.add_argument("--output", help="CSV file")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows, shares = [], []
    for name in arguments.elements:
        if name == "shipped":
            frames = [*load_silicon("train"), *load_silicon("test")]
        else:
            path = os.path.join(arguments.data_dir, f"zuo2020-{name}", "train.xyz")
            frames = list(kp.read_dataset(path))
        found, ratios = judge(name, *split(frames), arguments.members)
        rows += found
        shares += [(name, r) for r in ratios]
    show(HEADER, rows, arguments.output)
    for name in [*arguments.elements, "all"]:
        own = np.abs([r for n, r in shares if name in (n, "all")])
        print(
            f"{name}: {len(own)} properties, {100 * np.mean(own < 1):.0f} % within one std, "
            f"{100 * np.mean(own < 1.96):.0f} % within 1.96"
        )


if __name__ == "__main__":
    main()
