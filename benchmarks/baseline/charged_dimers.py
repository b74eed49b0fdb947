"""Extrapolation in distance: pairs of charged molecules, with and without charges.

    python benchmarks/baseline/charged_dimers.py DATA_DIR [--plot FILE.png]

DATA_DIR holds ``train.xyz`` (the nine shortest distances of each of ten dimers) and
``test.xyz`` (the four longest). Interaction energies are fitted; the molecules alone, at
interaction energy zero, belong to the training. The data have no charge of atoms: the
charge of each molecule is spread over its atoms, evenly, or shifted from there by an amount
for each element and sign of the molecule. These six amounts are fitted, before anything
else, to the four longest training distances of each dimer. All models have the same
kernels and the same wall.
"""

import argparse
import os
import time

import ase.io
import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from scipy.optimize import least_squares
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

import kernelpot as kp
from kernelpot.baseline.pair_functions import COULOMB
from kernelpot.data.neighbors import neighbor_list

EVEN, FITTED = "evenly_spread_charges", "fitted_charges"


def fragments(longest):
    """Molecule of each atom, 0 that of the first; found where they are far apart."""
    pairs = neighbor_list(longest, 2.5)
    i, j = pairs.centers, pairs.neighbors
    r = np.linalg.norm(pairs.displacements(longest.positions), axis=1)
    radii = covalent_radii[longest.numbers]
    bonded = r < 1.25 * (radii[i] + radii[j])
    graph = coo_matrix((np.ones(bonded.sum()), (i[bonded], j[bonded])), shape=(len(longest),) * 2)
    count, label = connected_components(graph)
    if count != 2:
        raise SystemExit(f"dimer {longest.info['dimer_id']}: {count} molecules, expected 2")
    return (label != label[0]).astype(int)


def labelled(atoms, molecule):
    """Interaction energy as the label, charges spread over the molecules."""
    info = atoms.info
    bare = Atoms(atoms.numbers, atoms.positions)
    bare.info["REF_energy"] = info["REF_energy"] - info["energyA"] - info["energyB"]
    bare.info["config_type"] = f"dimer {info['dimer_id']}"
    net = np.array([info["chargeA"], info["chargeB"]])
    bare.set_array("net_charge", net[molecule])
    bare.set_array("molecule", molecule)
    bare.set_array(EVEN, (net / np.bincount(molecule))[molecule])
    return bare


def shifted(atoms, shifts):
    """Charges of the atoms: evenly spread, then shifted by (sign, element)."""
    net, molecule = atoms.arrays["net_charge"], atoms.arrays["molecule"]
    shift = np.array([shifts[q > 0, s] for q, s in zip(net, atoms.symbols, strict=True)])
    mean = np.bincount(molecule, shift) / np.bincount(molecule)
    return atoms.arrays[EVEN] + shift - mean[molecule]


def fit_shifts(train):
    """Shifts that describe interaction energies at the longer training distances."""
    keys = sorted(
        {(q > 0, s) for a in train for q, s in zip(a.arrays["net_charge"], a.symbols, strict=True)}
    )

    def residual(x):
        rows = []
        for atoms in train:
            q = shifted(atoms, dict(zip(keys, x, strict=True)))
            d = atoms.get_all_distances()
            other = atoms.arrays["molecule"][:, None] != atoms.arrays["molecule"]
            energy = 0.5 * COULOMB * (np.outer(q, q)[other] / d[other]).sum()
            rows.append(energy - atoms.info["REF_energy"])
        # held to even charges where the data leave them open: 0.1 e weigh as much as 0.1 eV
        return np.array([*rows, *x])

    return dict(zip(keys, least_squares(residual, np.zeros(len(keys))).x, strict=True))


def alone(dimer, molecule, which):
    """One molecule of a dimer, at interaction energy zero."""
    one = dimer[molecule == which]
    one.info = {"REF_energy": 0.0, "config_type": "molecule"}
    return one


def main():
    """Fit both models, print errors per dimer, plot the curves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir")
    parser.add_argument("--plot", help="image file for the dissociation curves")
    parser.add_argument("--n-sparse", type=int, default=400)
    arguments = parser.parse_args()
    frames = {
        part: ase.io.read(os.path.join(arguments.data_dir, f"{part}.xyz"), ":")
        for part in ("train", "test")
    }
    dimers = sorted({a.info["dimer_id"] for a in frames["train"]})
    longest = {
        d: max((a for a in frames["test"] if a.info["dimer_id"] == d), key=distance) for d in dimers
    }
    molecule = {d: fragments(atoms) for d, atoms in longest.items()}
    sets = {
        part: [labelled(a, molecule[a.info["dimer_id"]]) for a in found]
        for part, found in frames.items()
    }
    far = []
    for d in dimers:
        mine = [k for k, a in enumerate(frames["train"]) if a.info["dimer_id"] == d]
        mine.sort(key=lambda k: distance(frames["train"][k]))
        far += [sets["train"][k] for k in mine[-4:]]
    shifts = fit_shifts(far)
    for atoms in [*sets["train"], *sets["test"]]:
        atoms.set_array(FITTED, shifted(atoms, shifts))
    for positive in (True, False):
        values = {}
        for atoms in far:
            for net, s, q in zip(
                atoms.arrays["net_charge"], atoms.symbols, atoms.arrays[FITTED], strict=True
            ):
                if (net > 0) == positive:
                    values.setdefault(s, []).append(q)
        text = ", ".join(f"{s} {np.mean(q):+.2f} e" for s, q in sorted(values.items()))
        print(f"mean fitted charges in {'cations' if positive else 'anions'}: {text}")

    train = list(sets["train"])
    for d in dimers:
        dimer = labelled(longest[d], molecule[d])
        dimer.set_array(FITTED, shifted(dimer, shifts))
        train += [alone(dimer, molecule[d], which) for which in (0, 1)]

    symbols = sorted(set(train[0].symbols).union(*(a.symbols for a in train)))
    baselines = {
        "short-ranged": [kp.Wall()],
        "charges spread evenly": [kp.Wall(), kp.Ewald(charges=EVEN)],
        "charges fitted": [kp.Wall(), kp.Ewald(charges=FITTED)],
    }
    predicted = {}
    for name, baseline in baselines.items():
        term = kp.SOAPTerm(r_cut=5.0, n_max=6, l_max=4, sigma_atom=0.5, n_sparse=arguments.n_sparse)
        began = time.perf_counter()
        potential = kp.KernelPotential(
            [term],
            baseline=baseline,
            e0=dict.fromkeys(symbols, 0.0),
            sigma_energy=0.002,
        ).fit(train)
        print(f"{name}: fitted in {time.perf_counter() - began:.1f} s")
        predicted[name] = {
            part: np.array([p.energy for p in potential.predict_many(found)])
            for part, found in sets.items()
        }

    truth = {part: np.array([a.info["REF_energy"] for a in found]) for part, found in sets.items()}
    belongs = {part: np.array([a.info["dimer_id"] for a in f]) for part, f in frames.items()}
    print("\nRoot mean square error of the interaction energy [meV]\n")
    header = ["dimer", "spread of test"] + [f"{n}, {p}" for n in baselines for p in sets]
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
    for d in [*dimers, "all"]:
        mine = {p: belongs[p] == d if d != "all" else np.full(len(truth[p]), True) for p in sets}
        row = [str(d), f"{1e3 * np.std(truth['test'][mine['test']]):.0f}"]
        for name in baselines:
            for part in sets:
                error = (predicted[name][part] - truth[part])[mine[part]]
                row.append(f"{1e3 * np.sqrt(np.mean(error**2)):.0f}")
        print("| " + " | ".join(row) + " |")
    if arguments.plot:
        plot(arguments.plot, dimers, frames, belongs, truth, predicted)


def distance(atoms):
    """Distance between the molecules as the data give it [Å]."""
    return atoms.info["distance"]


def plot(path, dimers, frames, belongs, truth, predicted):
    """Dissociation curves of all dimers; what is tested lies right of the dashed line."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 5, figsize=(17, 6.5), sharey=True)
    where = {p: np.array([distance(a) for a in frames[p]]) for p in frames}
    for axis, d in zip(axes.flat, dimers, strict=True):
        mine = {p: belongs[p] == d for p in frames}
        r = np.concatenate([where[p][mine[p]] for p in frames])
        order = np.argsort(r)

        def curve(values, mine=mine, order=order):
            return np.concatenate([values[p][mine[p]] for p in values])[order]

        axis.plot(r[order], curve(truth), "ko", label="reference")
        for name, style in zip(predicted, ("C3s--", "C1v:", "C0^-"), strict=True):
            axis.plot(r[order], curve(predicted[name]), style, ms=4, label=name)
        last = where["train"][mine["train"]].max()
        axis.axvline(0.5 * (last + where["test"][mine["test"]].min()), color="gray", ls="--")
        axis.set_title(f"dimer {d}")
    axes[0, 0].legend()
    for axis in axes[:, 0]:
        axis.set_ylabel("interaction energy [eV]")
    for axis in axes[1]:
        axis.set_xlabel("distance [Å]")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
