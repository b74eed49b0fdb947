"""The pictures of the concept pages, made anew.

    python docs/pictures.py [NAME ...]          (a few minutes; needs matplotlib)

Everything is computed with kernelpot on the data that ship with it, into docs/concepts/.
"""

import argparse
import warnings
from functools import cache
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from ase import Atoms, units
from ase.build import bulk

import kernelpot as kp
from kernelpot.baseline.smeared import SmearedCoulomb
from kernelpot.datasets import load_ethanol, load_silicon

FOLDER = Path(__file__).parent / "concepts"
# Told apart with any colour vision (Okabe and Ito).
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"
A = 5.469  # lattice constant of silicon with PBE [Å]


@cache
def silicon():
    """The potential that most pictures show."""
    return kp.KernelPotential(preset="fast").fit(load_silicon("train"))


def panels(n, height=3.0):
    """A figure of n panels beside each other, legible on a phone when they stand below."""
    return plt.subplots(1, n, figsize=(4.2 * n, height), layout="constrained", dpi=110)


def additive():
    """Local energies around a vacancy, and the energy as an atom leaves the cutoff."""
    pot = silicon()
    figure, (left, right) = panels(2)
    crystal = bulk("Si", a=A, cubic=True).repeat(3)
    vacancy = crystal.copy()
    del vacancy[0]
    shift = pot.predict(vacancy).energies - pot.predict(crystal).energies[1:]
    apart = crystal.get_distances(0, range(1, len(crystal)), mic=True)
    left.plot(apart, shift, "o", color=BLUE, markersize=4, alpha=0.6)
    left.axvline(pot.r_cut, color=GREY, linestyle="--")
    left.annotate("cutoff", (pot.r_cut, 0.9 * shift.max()), ha="right", xytext=(-4, 0),
                  textcoords="offset points", color=GREY)  # fmt: skip
    left.set(xlabel="distance of an atom from the vacancy [Å]",
             ylabel="change of its local energy [eV]", xlim=(2, 10))  # fmt: skip
    distances = np.linspace(4.5, 8.5, 161)
    cluster = Atoms("Si2", [[0, 0, 0], [0, 0, 2.3]])
    energy = [pot.predict(cluster + Atoms("Si", [[0, 0, 2.3 + r]])).energy for r in distances]
    energy = 1e3 * (np.array(energy) - energy[-1])
    right.plot(distances, energy, color=BLUE)
    right.axvline(pot.r_cut, color=GREY, linestyle="--")
    right.annotate("cutoff", (pot.r_cut, energy.min() * 0.6), xytext=(5, 0),
                   textcoords="offset points", color=GREY)  # fmt: skip
    right.set(xlabel="distance of a third atom from a dimer's end [Å]", ylabel="energy [meV]")
    return figure


def descriptors():
    """What pair distances, and what SOAP see of an angle; how the width of atoms blurs."""
    figure, (left, right) = panels(2)
    angles = np.linspace(60, 180, 61)

    def environment(angle, r=2.35):
        t = np.radians(angle)
        return Atoms("Si3", [[0, 0, 0], [r, 0, 0], [r * np.cos(t), r * np.sin(t), 0]])

    def difference(term, structures, reference):
        soap = kp.SOAP(term, (14,))
        p = soap.create(reference, centers=[0])[0]
        rows = np.array([soap.create(s, centers=[0])[0] for s in structures])
        cosine = rows @ p / np.linalg.norm(rows, axis=1) / np.linalg.norm(p)
        return np.sqrt(np.maximum(2 - 2 * cosine**term.zeta, 0))

    reference = environment(109.5)
    structures = [environment(angle) for angle in angles]
    for l_max, color, label in (
        (0, GREY, "distances only (l_max = 0)"),
        (2, ORANGE, "l_max = 2"),
        (6, BLUE, "SOAP, l_max = 6"),
    ):
        term = kp.SOAPTerm(
            r_cut=4.0, n_max=8, l_max=l_max, sigma_atom=0.4, zeta=4, central_weight=0.01
        )
        left.plot(angles, difference(term, structures, reference), color=color, label=label)
    left.axvline(109.5, color=GREY, linewidth=0.8, linestyle=":")
    left.set(xlabel="angle at the central atom [°]", ylabel="difference from 109.5°")
    left.legend(fontsize=8)
    distances = np.linspace(2.0, 4.6, 105)
    structures = [Atoms("Si2", [[0, 0, 0], [r, 0, 0]]) for r in distances]
    reference = Atoms("Si2", [[0, 0, 0], [2.35, 0, 0]])
    for width, color in ((0.3, BLUE), (0.5, ORANGE), (0.8, GREEN)):
        term = kp.SOAPTerm(
            r_cut=4.5, n_max=8, l_max=6, sigma_atom=width, zeta=4, central_weight=0.01
        )
        right.plot(distances, difference(term, structures, reference), color=color,
                   label=f"sigma_atom = {width} Å")  # fmt: skip
    right.axvline(2.35, color=GREY, linewidth=0.8, linestyle=":")
    right.axvline(4.5, color=GREY, linestyle="--")
    right.annotate("cutoff", (4.5, 0.05), ha="right", xytext=(-4, 0),
                   textcoords="offset points", color=GREY)  # fmt: skip
    right.set(xlabel="distance of a neighbor [Å]", ylabel="difference from 2.35 Å")
    right.legend(fontsize=8)
    return figure


def gaussian_process():
    """A process of one variable: prior, energies, energies and forces."""
    figure, axes = panels(3)
    x = np.linspace(1.6, 5.0, 200)

    def truth(r):
        return 3.2 * (np.exp(-2 * (r - 2.2) / 0.6) - 2 * np.exp(-(r - 2.2) / 0.6))

    def slope(r):
        return 3.2 * 2 / 0.6 * (np.exp(-(r - 2.2) / 0.6) - np.exp(-2 * (r - 2.2) / 0.6))

    length, delta, noise = 0.7, 2.5, 0.03

    def k(a, b, da=0, db=0):
        d = a[:, None] - b[None]
        e = delta**2 * np.exp(-(d**2) / 2 / length**2)
        return {
            (0, 0): e, (1, 0): -d / length**2 * e, (0, 1): d / length**2 * e,
            (1, 1): (1 / length**2 - d**2 / length**4) * e,
        }[da, db]  # fmt: skip

    at = np.array([1.95, 2.5, 3.5])
    none = np.zeros(0)
    for axis, energies, forces, title in (
        (axes[0], none, none, "before any data"),
        (axes[1], at, none, "three energies"),
        (axes[2], at, at, "... and their forces"),
    ):
        K = np.block([[k(energies, energies), k(energies, forces, 0, 1)],
                      [k(forces, energies, 1, 0), k(forces, forces, 1, 1)]])  # fmt: skip
        K += noise**2 * np.eye(len(K))
        K_star = np.hstack([k(x, energies), k(x, forces, 0, 1)])
        y = np.concatenate([truth(energies), slope(forces)])
        solved = np.linalg.solve(K, K_star.T) if len(K) else np.zeros((0, len(x)))
        mean = solved.T @ y
        std = np.sqrt(np.maximum(delta**2 - (K_star * solved.T).sum(1), 0))
        covariance = k(x, x) - K_star @ solved
        root = np.linalg.cholesky(covariance + 1e-6 * np.eye(len(x)))
        draws = mean[:, None] + root @ np.random.default_rng(1).normal(size=(len(x), 4))
        axis.fill_between(x, mean - 2 * std, mean + 2 * std, color=BLUE, alpha=0.2, linewidth=0)
        axis.plot(x, draws, color=BLUE, linewidth=0.6, alpha=0.6)
        axis.plot(x, truth(x), color=GREY, linestyle="--", label="truth")
        axis.plot(x, mean, color=BLUE, linewidth=2, label="mean, ± 2 std, 4 draws")
        axis.plot(energies, truth(energies), "o", color=RED)
        for r in forces:
            h = np.array([-0.18, 0.18])
            axis.plot(r + h, truth(r) + slope(r) * h, color=RED, linewidth=2.5)
        axis.set(title=title, xlabel="distance [Å]", ylabel="energy [eV]", ylim=(-6, 6))
    axes[0].legend(fontsize=8, loc="lower right")
    return figure


def sparse_points():
    """A map of environments with the chosen ones, and errors by their number."""
    figure, (left, right) = panels(2, 3.4)
    train, test = load_silicon("train"), load_silicon("test")
    term = kp.SOAPTerm(r_cut=4.8, n_max=8, l_max=6, sigma_atom=0.4, n_sparse=60)
    soap = kp.SOAP(term, (14,))
    frames = [f for f in train if len(f) > 1]
    rows = np.concatenate([soap.create(f.atoms) for f in frames])
    rows /= np.linalg.norm(rows, axis=1)[:, None]
    groups = np.concatenate([[f.config_type] * len(f) for f in frames])
    centered = rows - rows.mean(axis=0)
    _, _, axes = np.linalg.svd(centered, full_matrices=False)
    place = centered @ axes[:2].T
    crystal = np.isin(groups, ["crystal", "rattled", "vacancy", "stretched"])
    left.plot(*place[crystal].T, ".", color=BLUE, markersize=4, alpha=0.5, label="diamond")
    left.plot(*place[~crystal].T, ".", color=ORANGE, markersize=4, alpha=0.7,
              label="other phases, surfaces, disorder")  # fmt: skip
    # farthest-point sampling as the fit does it: by the distance the kernel defines
    chosen = [0]
    distance = 2 - 2 * (rows @ rows[0]) ** 2
    for _ in range(59):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, 2 - 2 * (rows @ rows[chosen[-1]]) ** 2)
    left.plot(*place[chosen].T, "o", markerfacecolor="none", markeredgecolor="k", markersize=6,
              label="60 sparse points")  # fmt: skip
    left.set(xlabel="first principal component", ylabel="second", xticks=[], yticks=[])
    left.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    numbers, errors = [20, 40, 80, 160, 320], []
    for n in numbers:
        terms = [kp.SOAPTerm(r_cut=4.8, n_max=8, l_max=6, sigma_atom=0.4, n_sparse=n)]
        pot = kp.KernelPotential(terms, baseline=[kp.Wall()])
        pot.fit(train, optimize=None, calibrate=False, self_test=False)
        errors.append(kp.evaluate(pot, test)["forces_mae_ev_per_ang"])
    right.loglog(numbers, errors, "o-", color=BLUE, label="force error of test frames [eV/Å]")
    right.set(xlabel="sparse points", ylabel="mean absolute force error [eV/Å]")
    right.set_xticks(numbers, [str(n) for n in numbers])
    ticks = [0.12, 0.15, 0.2, 0.3]
    right.set_yticks(ticks, [str(t) for t in ticks])
    right.minorticks_off()
    return figure


def variance():
    """Force errors against raw and calibrated standard deviations, and coverage."""
    figure, (left, right) = panels(2, 3.6)
    pot = kp.KernelPotential(preset="fast").fit(load_ethanol("train"), self_test=False)
    error, opened, raw, std = [], [], [], []
    for frame in load_ethanol("test"):
        found = pot.predict(frame.atoms, return_std=True)
        error.append((found.forces - frame.forces).ravel())
        opened.append(found.posterior.forces_open.ravel())
        raw.append(found.posterior.forces_std.ravel())
        std.append(found.forces_std.ravel())
    error, opened, raw, std = map(np.concatenate, (error, opened, raw, std))
    error = np.abs(error)
    kinds = (
        (raw, ORANGE, "posterior, novelty included"),
        (opened, GREEN, "what data leave open"),
        (std, BLUE, "calibrated"),
    )
    for values, color, label in kinds:
        order = np.array_split(np.argsort(values), 10)
        x = [np.sqrt(np.mean(values[o] ** 2)) for o in order]
        y = [np.sqrt(np.mean(error[o] ** 2)) for o in order]
        left.loglog(x, y, "o-", color=color, label=label)
    limits = [8e-3, 0.3]
    left.plot(limits, limits, color=GREY, linestyle="--")
    left.set(xlabel="predicted std of a force component [eV/Å]",
             ylabel="root mean square error [eV/Å]")  # fmt: skip
    left.legend(fontsize=8)
    levels = np.linspace(0.05, 0.99, 40)
    from scipy.stats import norm

    widths = norm.ppf(0.5 + levels / 2)
    for values, color, label in kinds:
        right.plot(levels, [(error < w * values).mean() for w in widths], color=color, label=label)
    right.plot([0, 1], [0, 1], color=GREY, linestyle="--")
    right.set(xlabel="share promised (Gaussian)", ylabel="share of test forces within")
    return figure


def gate():
    """A crystal compressed and stretched, and a dimer, with the net and by kernels alone."""
    figure, (left, right) = panels(2, 3.6)
    train = load_silicon("train")
    few = [f for f in train if f.config_type in ("rattled", "isolated_atom")]
    bare = kp.KernelPotential(preset="fast", baseline=[])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bare.fit(kp.Dataset(few), calibrate=False, self_test=False)
        net = kp.KernelPotential(preset="fast").fit(kp.Dataset(few), self_test=False)
    factors = np.linspace(0.6, 1.5, 181)

    def along(potential, structures, gate):
        return [p.energy / len(p.energies) for p in potential.predict_many(structures, gate=gate)]

    paths = (
        (left, factors, [bulk("Si", a=A * f) for f in factors],
         "lattice constant / equilibrium", "energy [eV/atom]"),
        (right, np.linspace(0.8, 7.0, 200),
         [Atoms("Si2", [[0, 0, 0], [0, 0, r]]) for r in np.linspace(0.8, 7.0, 200)],
         "Si-Si distance [Å]", "energy of the dimer [eV/atom]"),
    )  # fmt: skip
    e0 = net.describe()["e0"]["Si"]
    for axis, x, structures, label, y_label in paths:
        for potential, gate, color, name in (
            (bare, False, ORANGE, "kernels alone"),
            (net, True, BLUE, "with baseline and net"),
        ):
            axis.plot(x, np.array(along(potential, structures, gate)) - e0, color=color, label=name)
        found = list(net.predict_many(structures, gate=True))
        beyond = np.array([p.penalty.max() for p in found]) > 1e-3
        edges = np.flatnonzero(np.diff(np.concatenate([[0], beyond, [0]]).astype(int)))
        for k, (start, stop) in enumerate(edges.reshape(-1, 2)):
            axis.axvspan(x[start], x[stop - 1], color=GREY, alpha=0.15, linewidth=0,
                         label="the net acts" if k == 0 else None)  # fmt: skip
        axis.axhline(0, color=GREY, linewidth=0.6)
        axis.set(xlabel=label, ylabel=y_label, ylim=(-8, 6))
    data = [f for f in train if f.config_type in ("crystal", "stretched", "dimer")]
    for f in data:
        if f.config_type == "dimer":
            right.plot(f.atoms.get_distance(0, 1), f.energy / 2 - e0, "x", color="k")
        elif f.config_type == "stretched" or _cubic(f.atoms):
            scale = (f.atoms.get_volume() / len(f) * 8) ** (1 / 3) / A
            left.plot(scale, f.energy / len(f) - e0, "x", color="k")
    left.plot([], [], "x", color="k", label="PBE, not fitted")
    left.legend(fontsize=8, loc="lower left")
    return figure


def _cubic(atoms):
    cell = atoms.cell.array / atoms.get_volume() ** (1 / 3)
    return np.abs(cell @ cell.T - np.eye(3)).max() < 1e-3


def limits():
    """Errors and standard deviations of a molecule hotter than any it was trained on."""
    figure, (left, right) = panels(2)
    train, test = load_ethanol("train"), load_ethanol("test")
    cold = [f for f in train if f.config_type in ("md_300K", "isolated_atom")]
    pot = kp.KernelPotential(preset="fast").fit(kp.Dataset(cold), self_test=False)
    names = ("md_300K", "md_600K", "md_1000K")
    error, std = [], []
    for name in names:
        frames = [f for f in test if f.config_type == name]
        found = list(pot.predict_many([f.atoms for f in frames], return_std=True))
        error.append(np.sqrt(np.mean(
            [(p.forces - f.forces) ** 2 for p, f in zip(found, frames, strict=True)])))  # fmt: skip
        std.append(np.sqrt(np.mean([p.forces_std**2 for p in found])))
    x = np.arange(3)
    left.bar(x - 0.2, error, 0.38, color=RED, label="error")
    left.bar(x + 0.2, std, 0.38, color=BLUE, label="predicted std")
    left.set_xticks(x, ["300 K\n(as trained)", "600 K", "1,000 K"])
    left.set(ylabel="root mean square, forces [eV/Å]")
    left.legend()
    # two charges beyond any cutoff: a model of finite range sees nothing
    r = np.linspace(3, 14, 200)
    right.plot(r, -14.4 / r, color=GREY, linestyle="--", label="two charges of ±1 e")
    cutoff = 7.0
    inside = np.where(r < cutoff, -14.4 / r, -14.4 / cutoff * 0)
    step = np.clip((r - cutoff + 1.5) / 1.5, 0, 1)
    right.plot(r, inside * (1 - step**3 * (10 - 15 * step + 6 * step**2)), color=RED,
               label="the best a cutoff of 7 Å can do")  # fmt: skip
    right.axvline(cutoff, color=GREY, linewidth=0.8)
    right.set(xlabel="distance [Å]", ylabel="energy [eV]")
    right.legend()
    return figure


def long_range():
    """Two charges, as Gaussians and as points, and what a model of a cutoff can see of them."""
    figure, (left, right) = panels(2)
    distances = np.geomspace(0.3, 40.0, 200)
    smeared = []
    for r in distances:
        coulomb = SmearedCoulomb(Atoms("H2", [[0, 0, 0], [0, 0, r]]), np.full(2, 0.6))
        apart = coulomb.potential(np.array([0.0, 1.0]))[0]
        smeared.append(apart)
    smeared = np.array(smeared)
    point = units._e / (4e-10 * np.pi * units._eps0) / distances
    cutoff = 5.0
    for ax in (left, right):
        ax.plot(distances, point, "--", color=GREY, label="point charges, 1/r")
        ax.plot(distances, smeared, color=BLUE, label="Gaussians of 0.6 Å")
        ax.axvspan(cutoff, distances[-1], color=ORANGE, alpha=0.15, lw=0)
        ax.set(xlabel="distance of two unit charges [Å]", ylabel="energy [eV]")
    left.annotate("beyond the cutoff of\na local model", (6.0, 12.0), color=RED)
    left.set(xlim=(0, 20), ylim=(0, 25))
    left.legend(loc="upper right")
    right.set(xscale="log", yscale="log", xlim=(0.3, 40))
    right.legend(loc="lower left")
    return figure


PICTURES = {
    "additive-energies": additive,
    "descriptors": descriptors,
    "gaussian-process": gaussian_process,
    "sparse-points": sparse_points,
    "variance": variance,
    "gate": gate,
    "limits": limits,
    "long-range": long_range,
}


def main():
    """Make the pictures that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*PICTURES, []], help="default: all")
    for name in parser.parse_args().names or PICTURES:
        figure = PICTURES[name]()
        path = FOLDER / f"{name}.png"
        figure.savefig(path)
        plt.close(figure)
        print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
