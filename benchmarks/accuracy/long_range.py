"""Long range: charges that depend on their environments, and LODE, beside local models.

    python benchmarks/accuracy/long_range.py dimers DATA_DIR [--plot FILE.png]
    python benchmarks/accuracy/long_range.py clusters [--structures 100]
    python benchmarks/accuracy/long_range.py dynamics
    python benchmarks/accuracy/long_range.py speed

`dimers`: interaction energies of pairs of charged molecules (as `baseline/charged_dimers.py`),
trained at the nine shortest and tested at the four longest distances; all models have the same
kernels, wall and training structures. `clusters` is a test of the mechanism and of nothing else:
labels of an ionic model with charges by coordination, which have to be found again. `dynamics` is
5 ps at constant energy with charges that move, `speed` the time of a step and its exponent.
"""

import argparse
import os
import sys
import time

import ase.io
import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet

import kernelpot as kp
from kernelpot.baseline.smeared import SmearedCoulomb

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "baseline"))
from charged_dimers import EVEN, alone, distance, fragments, labelled  # noqa: E402


def models(terms, n_sparse):
    """Of each model terms, baseline, charges, and whether molecules alone are trained too.

    A local model has smaller errors without: it has no way to tell a molecule alone from one
    whose partner is beyond the cutoff, whatever the energies say.
    """
    return {
        "local": (terms, [kp.Wall()], None, False),
        "local, molecules alone too": (terms, [kp.Wall()], None, True),
        "fixed charges, spread evenly": (terms, [kp.Wall(), kp.Ewald(charges=EVEN)], None, True),
        "kernel charges": (terms, [kp.Wall()], kp.KernelCharges(), True),
        "LODE": ([*terms, kp.LODETerm(n_sparse=n_sparse)], [kp.Wall()], None, True),
    }


# ---- charged dimers ----------------------------------------------------------------


def dimers(arguments):
    """Errors by distance, and charges of the molecules."""
    frames = {
        part: ase.io.read(os.path.join(arguments.data_dir, f"{part}.xyz"), ":")
        for part in ("train", "test")
    }
    ids = sorted({a.info["dimer_id"] for a in frames["train"]})
    longest = {
        d: max((a for a in frames["test"] if a.info["dimer_id"] == d), key=distance) for d in ids
    }
    molecule = {d: fragments(atoms) for d, atoms in longest.items()}
    sets = {}
    for part, found in frames.items():
        sets[part] = [labelled(a, molecule[a.info["dimer_id"]]) for a in found]
        for atoms, full in zip(sets[part], found, strict=True):
            atoms.arrays["REF_forces"] = full.arrays["REF_forces"]
    molecules = []
    for d in ids:
        dimer = labelled(longest[d], molecule[d])
        for which in (0, 1):
            one = alone(dimer, molecule[d], which)
            one.info["charge"] = float(one.arrays["net_charge"][0])
            molecules.append(one)
    order = np.array(
        [
            sorted(distance(b) for b in frames["test"] if b.info["dimer_id"] == a.info["dimer_id"])
            .index(distance(a))
            for a in frames["test"]
        ]
    )  # fmt: skip
    truth = np.array([a.info["REF_energy"] for a in sets["test"]])
    forces = np.concatenate([a.arrays["REF_forces"].ravel() for a in sets["test"]])
    print("| model | test E [eV] | by distance, shortest first | test F [eV/Å] | fit [CPU s] |")
    print("|---|---|---|---|---|")
    curves, notes = {}, []
    term = kp.SOAPTerm(r_cut=4.5, n_max=6, l_max=4, sigma_atom=0.5, n_sparse=arguments.n_sparse)
    e0 = dict.fromkeys("HCNO", 0.0)  # of interaction energies
    for name, (terms, baseline, charges, too) in models([term], arguments.n_sparse).items():
        began = time.process_time()
        pot = kp.KernelPotential(terms, baseline=baseline, charges=charges, e0=e0)
        train = [*sets["train"], *(molecules if too else ())]
        pot.fit(train, optimize=None, calibrate=False, self_test=False)
        took = time.process_time() - began
        found = list(pot.predict_many(sets["test"]))
        error = np.array([p.energy for p in found]) - truth
        by = [np.sqrt(np.mean(error[order == k] ** 2)) for k in range(4)]
        off = np.concatenate([p.forces.ravel() for p in found]) - forces
        print(
            f"| {name} | {np.sqrt(np.mean(error**2)):.3f} | {', '.join(f'{e:.3f}' for e in by)} | "
            f"{np.sqrt(np.mean(off**2)):.3f} | {took:.0f} |",
            flush=True,
        )
        curves[name] = np.concatenate([error, [p.energy - a.info["REF_energy"] for p, a in zip(
            pot.predict_many(sets["train"]), sets["train"], strict=True)]])  # fmt: skip
        notes += [f"{name}: {note}" for note in pot.model.training.notes if "charges" in note]
        if found[0].charges is not None:
            q = np.array(
                [
                    p.charges[a.arrays["molecule"] == 0].sum() * a.arrays["net_charge"][0]
                    for p, a in zip(found, sets["test"], strict=True)
                ]
            )
            notes.append(f"{name}: charge of a molecule {q.mean():.3f} ± {q.std():.3f} of 1 e")
        if too:
            notes.append(f"{name}: {tail(pot, sets['test'], order)}")
    print("\n".join(["", *notes]))
    if arguments.plot:
        r = [distance(a) for part in ("test", "train") for a in frames[part]]
        plot(arguments.plot, np.array(r), curves, len(truth))


def tail(pot, sets, order):
    """Energy of molecules pulled 40 and 80 Å further apart: the power by which it falls."""
    powers = []
    for atoms in (a for a, k in zip(sets, order, strict=True) if k == 3):
        second = atoms.arrays["molecule"] == 1
        axis = atoms.positions[second].mean(axis=0) - atoms.positions[~second].mean(axis=0)
        energies, apart = [], []
        for more in (40.0, 80.0, 1e4):
            moved = atoms.copy()
            moved.positions[second] += more * axis / np.linalg.norm(axis)
            energies.append(pot.predict(moved).energy)
            apart.append(np.linalg.norm(axis) + more)
        high = np.array(energies[:2]) - energies[2]
        if not high[0] * high[1] > 0:
            return "the energy does not fall with a power: it vanishes or changes its sign"
        powers.append(np.log(high[0] / high[1]) / np.log(apart[1] / apart[0]))
    return f"the energy falls with the power {np.mean(powers):.3f} ± {np.std(powers):.3f}"


def plot(path, r, curves, n_test):
    """Errors of all models by distance on one axis; open symbols are training structures."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4.5))
    for color, (name, error) in enumerate(curves.items()):
        size = np.maximum(np.abs(error), 1e-4)
        axis.plot(r[:n_test], size[:n_test], f"C{color}o", ms=4, label=name)
        axis.plot(r[n_test:], size[n_test:], f"C{color}o", ms=3, mfc="none", alpha=0.4)
    axis.set(
        yscale="log", xlabel="distance of the molecules [Å]", ylabel="error of the energy [eV]"
    )
    axis.legend(title="filled: tested")
    figure.tight_layout()
    figure.savefig(path, dpi=130)


# ---- a test of the mechanism -------------------------------------------------------

WIDTH = 0.8


def true_charges(atoms):
    """Charges by coordination, neutralized evenly [e]."""
    d = atoms.get_all_distances() + 99 * np.eye(len(atoms))
    sign = np.where(atoms.numbers == 11, 1.0, -1.0)
    near = 1 / (1 + np.exp((d - 3.4) / 0.3)) * (sign[:, None] != sign)
    q = sign * (0.35 + 0.1 * near.sum(axis=1))
    return q - q.mean()


def true_energy(atoms):
    """Gaussian charges and a repulsion of pairs [eV]."""
    q = true_charges(atoms)
    d = atoms.get_all_distances() + 99 * np.eye(len(atoms))
    electrostatic = 0.5 * q @ SmearedCoulomb(atoms, np.full(len(q), WIDTH)).potential(q)
    return electrostatic + 600 * np.exp(-d / 0.31).sum()


def cluster(rng, n):
    """Ions at random, none closer than bonds are, in a ball of the density of a melt."""
    numbers = np.where(np.arange(n) < n // 2 + rng.integers(-1, 2), 11, 17)
    radius = 1.9 * n ** (1 / 3)
    while True:
        places = []
        for _ in range(4000):
            new = rng.uniform(-radius, radius, 3)
            least = [2.3 if z != numbers[len(places)] else 2.9 for z in numbers[: len(places)]]
            close = any(np.linalg.norm(new - p) < m for p, m in zip(places, least, strict=True))
            if np.linalg.norm(new) < radius and not close:
                places.append(new)
            if len(places) == n:
                return Atoms(numbers, places)
        radius *= 1.05


def with_labels(atoms):
    """Energy, and forces by finite differences."""
    forces = np.empty((len(atoms), 3))
    for i in range(len(atoms)):
        for c in range(3):
            at = []
            for step in (1e-4, -1e-4):
                moved = atoms.copy()
                moved.positions[i, c] += step
                at.append(true_energy(moved))
            forces[i, c] = (at[1] - at[0]) / 2e-4
    atoms.info["REF_energy"] = true_energy(atoms)
    atoms.arrays["REF_forces"] = forces
    return atoms


def ionic_potential(n_structures, seed=0, *, gate=True):
    """A model of clusters, and others to test it on."""
    rng = np.random.default_rng(seed)
    made = [with_labels(cluster(rng, int(rng.integers(8, 13)))) for _ in range(n_structures + 20)]
    terms = [kp.PairTerm(r_cut=5.0), kp.SOAPTerm(r_cut=5.0, n_max=6, l_max=4, n_sparse=150)]
    charges = kp.KernelCharges(smearing=WIDTH, gate=gate)
    fitted = []
    for own in (None, charges):
        pot = kp.KernelPotential(terms, baseline=[kp.Wall()], charges=own)
        fitted.append(pot.fit(made[:n_structures], calibrate=False, self_test=False))
    return (*fitted, made[n_structures:])


def clusters(arguments):
    """Charges found beside those that made the labels."""
    local, pot, test = ionic_potential(arguments.structures)
    for name, one in (("local", local), ("kernel charges", pot)):
        found = list(one.predict_many(test))
        e = [p.energy - a.info["REF_energy"] for p, a in zip(found, test, strict=True)]
        f = [p.forces - a.arrays["REF_forces"] for p, a in zip(found, test, strict=True)]
        f = np.concatenate([x.ravel() for x in f])
        print(f"{name}: test E {np.sqrt(np.mean(np.square(e))):.4f} eV, F {f.std():.4f} eV/Å")
    print("\n".join(note for note in pot.model.training.notes if "charges" in note))
    q = np.concatenate([pot.predict(a).charges for a in test])
    true = np.concatenate([true_charges(a) for a in test])
    size = np.abs(true).mean()
    print(
        f"charges: RMSE {np.sqrt(np.mean((q - true) ** 2)):.4f} e of {size:.3f} e "
        f"({100 * np.sqrt(np.mean((q - true) ** 2)) / size:.1f} %), correlation "
        f"{np.corrcoef(q, true)[0, 1]:.4f}, {q @ true / (true @ true):.3f} of their size"
    )


# ---- dynamics and speed ------------------------------------------------------------


def dynamics(arguments):
    """Energy at constant energy, 5 ps, while charges move."""
    _, pot, _ = ionic_potential(arguments.structures, gate=False)
    corners = np.array(np.meshgrid([0, 1], [0, 1], [0, 1])).reshape(3, -1).T
    atoms = Atoms(np.where(corners.sum(axis=1) % 2, 17, 11), 2.8 * corners)
    atoms.calc = pot.calculator()
    thermalize_momenta(atoms, temperature_K=300, rng=np.random.default_rng(0))
    run = VelocityVerlet(atoms, 1.0 * units.fs)
    totals, kinetic, charges = [], [], []
    for _ in range(1000):
        run.run(5)
        totals.append(atoms.get_total_energy())
        kinetic.append(atoms.get_kinetic_energy())
        charges.append(atoms.get_charges())
    time_ps = 0.005 * np.arange(1, 1001)
    drift = np.polyfit(time_ps, totals, 1)[0] / len(atoms)
    moved = np.std(charges, axis=0)
    print(
        f"5 ps of {len(atoms)} atoms: drift {1e3 * drift:+.4f} meV/atom/ps, fluctuation "
        f"{1e3 * np.std(totals) / len(atoms):.4f} meV/atom, of the kinetic energy "
        f"{1e3 * np.std(kinetic) / len(atoms):.2f}; charges move by {moved.mean():.3f} e"
    )


def speed(arguments):
    """CPU time of energy, forces and stress by size, with charges and without."""
    local, pot, _ = ionic_potential(24, gate=False)
    sizes, ratios = [], []
    print("| atoms | local [CPU s] | with charges [CPU s] | ratio |\n|---|---|---|---|")
    for n in (2, 4, 8):
        atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True).repeat(n)
        atoms.rattle(0.1, seed=0)
        took = []
        for one in (local, pot):
            one.predict(atoms[:8])
            began = time.process_time()
            one.predict(atoms)
            took.append(time.process_time() - began)
        sizes.append(len(atoms))
        ratios.append(took)
        print(f"| {len(atoms)} | {took[0]:.3f} | {took[1]:.3f} | {took[1] / took[0]:.1f} |")
    for name, own in zip(("local", "with charges"), np.array(ratios).T, strict=True):
        print(f"{name}: time grows as N^{np.polyfit(np.log(sizes), np.log(own), 1)[0]:.2f}")


def main():
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_subparsers(dest="what", required=True)
    one = what.add_parser("dimers")
    one.add_argument("data_dir")
    one.add_argument("--plot", help="image file for errors by distance")
    one.add_argument("--n-sparse", type=int, default=300)
    for name in ("clusters", "dynamics"):
        what.add_parser(name).add_argument("--structures", type=int, default=100)
    what.add_parser("speed")
    arguments = parser.parse_args()
    {"dimers": dimers, "clusters": clusters, "dynamics": dynamics, "speed": speed}[arguments.what](
        arguments
    )


if __name__ == "__main__":
    main()
