"""Is energy conserved while the safety net acts?

    python benchmarks/safety/nve_gate.py DATA_DIR [--systems zuo2020-Si] [--plot FILE.png]

A potential is fitted to first-principles data and run in NVE (VelocityVerlet), always with
the same step:

- known, no gate: at a temperature inside the data; what the others are compared with;
- known, default gate: the same, with the net found by the fit;
- edge, beyond: the same, but with a net that acts there: `std_known` of each species is the
  median of the local std its least known atom meets in the known region, so that the net sets
  in and lets go again and again, or half of that, so that it acts all the time;
- fast atom, stretched: driven out of the data with the default net, and without one; they
  are hotter than what they are compared with.

The first four are brought to the temperature by a thermostat, each with its own net.

VelocityVerlet conserves, instead of the total energy E, to fourth order in the step h
E + h^2 (v.V''v / 12 - F.F/m / 24); it differs from E by a bounded oscillation and so
drifts as E does (Hairer, Lubich, Wanner, Acta Numerica 12, 399 (2003)). Both slopes are given:
that of the corrected energy is less blurred.
Fluctuations of E are proportional to h^2, and those of the corrected energy to h^4, if forces
are the derivative of the energy, what the net adds included.
"""

import argparse
import os
import time
from dataclasses import dataclass

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("KERNELPOT_NUM_THREADS", "1")

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.data import chemical_symbols
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import Stationary, thermalize_momenta
from ase.md.verlet import VelocityVerlet

import kernelpot as kp
from kernelpot.safety.gate import NOTICEABLE

KNOWN, DEFAULT, EDGE, BEYOND = "known, no gate", "known, default gate", "edge", "beyond"
PARTS = ("gates", "driven", "steps")
EQUILIBRATION = 0.5  # [ps]
N_BLOCKS = 20
LOST = (ValueError, FloatingPointError, RuntimeError)  # how a run ends that went wrong


@dataclass(frozen=True)
class System:
    """What is run.

    Attributes
    ----------
    temperature : float
        Of the known region [K].
    timestep : float
        [fs].
    fast : float
        Kinetic energy given to the last atom in the fast case [eV].
    stretch : float
        Factor on all distances in the stretched case.
    frames : int or None
        How many training frames to fit.
    """

    temperature: float
    timestep: float
    fast: float
    stretch: float
    frames: int | None


SYSTEMS = {
    "zuo2020-Si": System(900, 1.0, 30, 1.15, None),
    "rmd17-ethanol": System(500, 0.5, 4, 1.15, 200),
}


@dataclass(frozen=True)
class Trace:
    """A finished run.

    Attributes
    ----------
    times : ndarray of shape (n_steps + 1,)
        [ps].
    total : ndarray of shape (n_steps + 1,)
        Total energy [eV/atom].
    corrected : ndarray of shape (n_steps - 1,)
        What the integrator conserves to fourth order, without both ends [eV/atom].
    temperature : float
        Mean over the last half [K].
    penalty : ndarray of shape (n_steps + 1, n_atoms)
        [eV]; zero without a net.
    """

    times: np.ndarray
    total: np.ndarray
    corrected: np.ndarray
    temperature: float
    penalty: np.ndarray

    @property
    def events(self):
        """How often an atom has left what is known, and has come back."""
        beyond = self.penalty > NOTICEABLE
        return int(np.sum(beyond[1:] & ~beyond[:-1])), int(np.sum(~beyond[1:] & beyond[:-1]))


def nve(atoms, calculator, timestep, n_steps):
    """Run a copy of the atoms; returns the trace and the final state."""
    atoms = atoms.copy()
    atoms.calc = calculator
    dynamics = VelocityVerlet(atoms, timestep * units.fs)
    rows, penalty, kept, corrected = [], [], [], []

    def look():
        forces = atoms.get_forces()
        total = atoms.get_potential_energy() + atoms.get_kinetic_energy()
        if not np.isfinite(total):
            raise ValueError("the energy is not finite")
        rows.append((total, atoms.get_temperature()))
        penalty.append(calculator.uncertainty.get("penalty", np.zeros(len(atoms))))
        kept.append((total, forces, atoms.get_velocities()))
        if len(kept) == 3:
            corrected.append(conserved(kept, atoms.get_masses(), dynamics.dt))
            kept.pop(0)

    dynamics.attach(look)
    dynamics.run(n_steps)
    total, temperature = np.array(rows).T
    n = len(atoms)
    times = 1e-3 * timestep * np.arange(n_steps + 1)
    trace = Trace(
        times,
        total / n,
        np.array(corrected) / n,
        float(temperature[n_steps // 2 :].mean()),
        np.array(penalty, dtype=np.float32),
    )
    return trace, atoms


def conserved(states, masses, h):
    """Total energy and its correction of order h^2, at the middle one of three states."""
    (_, before, _), (total, forces, velocities), (_, after, _) = states
    curvature = -np.sum(velocities * (after - before)) / (2 * h)  # v.V''v
    return total + h**2 * (curvature / 12 - np.sum(forces**2 / masses[:, None]) / 24)


def slope(times, energies):
    """Least-squares slope and its standard error, from block averages."""
    t, e = (
        np.array([part.mean() for part in np.array_split(values, N_BLOCKS)])
        for values in (times, energies)
    )
    t -= t.mean()
    found = np.sum(t * e) / np.sum(t**2)
    residuals = e - e.mean() - found * t
    return found, np.sqrt(np.sum(residuals**2) / (N_BLOCKS - 2) / np.sum(t**2))


def slopes(traces, corrected):
    """Slope and standard error of every run [eV/atom/ps]."""
    if corrected:
        return np.array([slope(t.times[1:-1], t.corrected) for t in traces])
    return np.array([slope(t.times, t.total) for t in traces])


def combined(found):
    """Mean over runs and its error: the larger of their scatter and their own errors."""
    values, errors = found.T
    own = np.sqrt(np.sum(errors**2)) / len(values)
    scatter = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return values.mean(), max(own, scatter)


def gate_at(std, symbols, factor):
    """The net whose limit is a multiple of the median std of the least known atom of a species."""
    medians = np.median(std, axis=0)
    known = {
        symbol: factor * float(medians[symbols == symbol].max()) for symbol in np.unique(symbols)
    }
    return kp.VarianceGate(std_known=known, on_gate=None)


def start(name, system, frames, calculator, seed):
    """Atoms that have forgotten where they came from, at the known temperature."""
    rng = np.random.default_rng(seed)
    temperature, step = system.temperature, system.timestep * units.fs
    if name == "zuo2020-Si":
        atoms = bulk("Si", a=5.469, cubic=True).repeat(2)
    else:
        frame = frames[int(rng.integers(len(frames)))].atoms
        atoms = Atoms(frame.numbers, frame.positions)
    atoms.calc = calculator
    thermalize_momenta(atoms, temperature_K=temperature, rng=rng)
    dynamics = Langevin(
        atoms, step, temperature_K=temperature, friction=0.02 / units.fs, fixcm=False, rng=rng
    )
    dynamics.run(round(1000 * EQUILIBRATION / system.timestep))
    Stationary(atoms)
    return atoms


def driven(atoms, case, system, seed):
    """A copy of the start on its way out of the data."""
    atoms = atoms.copy()
    if case == "stretched":
        atoms.set_cell(system.stretch * atoms.cell)
        atoms.positions *= system.stretch
        return atoms
    direction = np.random.default_rng([seed, 1]).normal(size=3)
    momenta = atoms.get_momenta()
    size = np.sqrt(2 * system.fast * atoms.get_masses()[-1])
    momenta[-1] = size * direction / np.linalg.norm(direction)
    atoms.set_momenta(momenta)
    return atoms


def fit(name, system, arguments):
    """The potential, and the frames it knows."""
    data = kp.read_dataset(os.path.join(arguments.data_dir, name, "train.xyz"))
    frames = [frame for frame in data if len(frame) > 1]
    if system.frames is not None:
        chosen = np.random.default_rng(0).permutation(len(frames))[: system.frames]
        frames = [frames[i] for i in sorted(chosen)]
    present = {z for frame in frames for z in frame.atoms.numbers}
    alone = [frame for frame in data if len(frame) == 1 and frame.atoms.numbers[0] in present]
    pot = kp.KernelPotential(n_sparse=arguments.n_sparse)
    return pot.fit(kp.Dataset(alone + frames), calibrate=False, self_test=False), frames


def std_met(pot, starts, timestep):
    """Local standard deviations of all atoms in half a picosecond of the known region."""
    # exact where nothing counts as known
    exact = kp.VarianceGate(std_known=1e-6, on_gate=None)
    found = []
    for atoms in starts:
        atoms = atoms.copy()
        atoms.calc = pot.calculator(gate=None)
        dynamics = VelocityVerlet(atoms, timestep * units.fs)
        for _ in range(20):
            dynamics.run(round(25 / timestep))
            found.append(pot.predict(atoms, gate=exact).std_bound)
    return np.array(found)


def describe(pot, gates, std, symbols):
    """Print the std met, and what counts as known with every net."""
    for z, known in zip(pot.model.species, pot.model.safety.std_known, strict=True):
        symbol = chemical_symbols[z]
        met = np.quantile(std[:, symbols == symbol], (0.1, 0.5, 0.9, 1.0))
        limits = {DEFAULT: known} | {c: gates[c].std_known[symbol] for c in (EDGE, BEYOND)}
        quantiles = ", ".join(f"{q:.4f}" for q in met)
        print(f"  {symbol}: local std met, 10, 50, 90, 100 %: {quantiles} eV; known up to")
        print("    " + "; ".join(f"{c}: {value:.4f} eV" for c, value in limits.items()))


def study(name, arguments):
    """All runs of one system; prints its tables and returns what the plot needs."""
    system = SYSTEMS[name]
    began = time.perf_counter()
    pot, frames = fit(name, system, arguments)
    print(
        f"\n{name}: {len(frames)} frames fitted in {time.perf_counter() - began:.0f} s, "
        f"{system.temperature:g} K, step {system.timestep:g} fs, "
        f"{arguments.seeds} runs of {arguments.picoseconds:g} ps of each case",
        flush=True,
    )
    seeds = range(arguments.seeds)

    def starts(gate):
        return [start(name, system, frames, pot.calculator(gate=gate), s) for s in seeds]

    known = starts(None)
    default = kp.VarianceGate(on_gate=None)
    std = std_met(pot, known, system.timestep)
    symbols = np.array(known[0].get_chemical_symbols())
    gates = {
        KNOWN: None,
        DEFAULT: default,
        EDGE: gate_at(std, symbols, 1.0),
        BEYOND: gate_at(std, symbols, 0.5),
    }
    describe(pot, gates, std, symbols)
    begin = {KNOWN: known}
    if {"gates", "steps"} & set(arguments.parts):
        begin[DEFAULT] = starts(default)
        for case in (EDGE, BEYOND):
            try:
                begin[case] = starts(gates[case])
            except LOST as error:  # a net too steep for the step
                print(f"  {case}: lost while brought to the temperature: {error}", flush=True)
    wanted = {KNOWN: (known, None)}
    if "gates" in arguments.parts:
        wanted |= {case: (atoms, gates[case]) for case, atoms in begin.items()}
    if "driven" in arguments.parts:
        for case in ("fast atom", "stretched"):
            out = [driven(atoms, case, system, s) for s, atoms in enumerate(known)]
            wanted |= {f"{case}, default gate": (out, default), f"{case}, no gate": (out, None)}

    print(
        "\n| case | T [K] | slope [µeV/atom/ps] | corrected slope | rms slope of a run, ratio "
        "to known | corrected, ratio | rms fluctuation [meV/atom] | largest excursion | atoms "
        "leaving, coming back per ps | share beyond | mean penalty [meV] |\n" + "|---" * 11 + "|"
    )
    steps = round(1000 * arguments.picoseconds / system.timestep)
    results = {}
    for case, (atoms, gate) in wanted.items():
        try:
            results[case] = [
                nve(a, pot.calculator(gate=gate), system.timestep, steps)[0] for a in atoms
            ]
        except LOST as error:
            results[case] = None
            print(f"| {case} | {type(error).__name__}: {error} " + "|" * 10, flush=True)
            continue
        report(case, results[case], results[KNOWN])
    orders = {}
    if "steps" in arguments.parts:
        cases = {c: (atoms[0], gates[c]) for c, atoms in begin.items() if c != DEFAULT}
        for case in ("fast atom", "stretched"):
            cases[f"{case}, default gate"] = driven(known[0], case, system, 0), default
        orders = timestep_dependence(pot, cases, system.timestep, arguments.short)
    return results, orders


def report(case, traces, known):
    """Print the row of a case."""
    cells = [f"{np.mean([t.temperature for t in traces]):.0f}"]
    ratios = []
    for corrected in (False, True):
        found = slopes(traces, corrected)
        mean, error = combined(found)
        cells.append(f"{1e6 * mean:.3f} ± {1e6 * error:.3f}")
        rms, base = (np.sqrt(np.mean(f[:, 0] ** 2)) for f in (found, slopes(known, corrected)))
        ratios.append(f"{1e6 * rms:.3f}, {rms / base:.2f}")
    duration = sum(t.times[-1] for t in traces)
    left, back = np.sum([t.events for t in traces], axis=0)
    penalty = np.concatenate([t.penalty for t in traces])
    cells += ratios
    cells += [
        f"{1e3 * np.sqrt(np.mean([t.total.var() for t in traces])):.4f}",
        f"{1e3 * max(np.abs(t.total - t.total.mean()).max() for t in traces):.4f}",
        f"{left / duration:.0f}, {back / duration:.0f}",
        f"{100 * np.mean(penalty > NOTICEABLE):.1f} %",
        f"{1e3 * penalty.mean():.3f}",
    ]
    print(f"| {case} | " + " | ".join(cells) + " |", flush=True)


def timestep_dependence(pot, cases, timestep, picoseconds):
    """Fluctuations of one run of the same length with other steps; prints a table."""
    steps = [factor * timestep for factor in (2.0, 1.0, 0.5, 0.25)]
    print(
        f"\n| case | quantity | {' | '.join(f'rms, {h:g} fs [µeV/atom]' for h in steps)} | "
        "order of the step |\n" + "|---" * (3 + len(steps)) + "|"
    )
    found = {}
    for case, (atoms, gate) in cases.items():
        try:
            traces = [
                nve(atoms, pot.calculator(gate=gate), h, round(1000 * picoseconds / h))[0]
                for h in steps
            ]
        except LOST as error:
            print(f"| {case} | {type(error).__name__}: {error} " + "|" * (2 + len(steps)))
            continue
        found[case] = steps, [t.total.std() for t in traces]
        for quantity in ("total", "corrected"):
            rms = np.array([getattr(t, quantity).std() for t in traces])
            orders = ", ".join(f"{o:.2f}" for o in np.log2(rms[:-1] / rms[1:]))
            values = " | ".join(f"{1e6 * r:.4f}" for r in rms)
            print(f"| {case} | {quantity} | {values} | {orders} |", flush=True)
    return found


def plot(found, path):
    """Energies, gated atoms and the dependence on the step, a row for each system."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(found), 3, figsize=(15, 4 * len(found)), squeeze=False, layout="constrained"
    )
    shown = (KNOWN, EDGE, BEYOND, "fast atom, default gate", "stretched, default gate")
    colors = {case: f"C{k}" for k, case in enumerate(shown)}
    for row, (name, (results, orders)) in zip(axes, found.items(), strict=True):
        for case, color in colors.items():
            if results.get(case) is None:
                continue
            trace = results[case][0]
            row[0].plot(trace.times, 1e3 * (trace.total - trace.total[0]), color, lw=0.5, alpha=0.4)
            corrected = 1e3 * (trace.corrected - trace.corrected[0])
            row[0].plot(trace.times[1:-1], corrected, color, label=case)
            if case != KNOWN:
                beyond = np.mean(trace.penalty > NOTICEABLE, axis=1)
                row[1].plot(trace.times, beyond, color, lw=0.8, label=case)
        for case, (steps, rms) in orders.items():
            row[2].loglog(steps, 1e3 * np.array(rms), "o-", color=colors[case], label=case)
        if orders:
            steps, rms = orders[KNOWN]
            guide = 0.5e3 * rms[0] * (np.array(steps) / steps[0]) ** 2
            row[2].loglog(steps, guide, "k--", lw=0.8, label="step squared")
        row[0].set(title=f"{name}: bold without the oscillation of the integrator")
        row[0].set(xlabel="time [ps]", ylabel="total energy - start [meV/atom]")
        row[1].set(xlabel="time [ps]", ylabel="share of atoms beyond the data")
        row[2].set(xlabel="time step [fs]", ylabel="rms fluctuation [meV/atom]")
        for ax in row:
            if ax.lines:
                ax.legend(fontsize="small")
    figure.savefig(path, dpi=130)


def main():
    """Print the tables of every system."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=["zuo2020-Si"])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each case")
    parser.add_argument("--picoseconds", type=float, default=3.0, help="length of a run")
    parser.add_argument("--short", type=float, default=0.3, help="length at other steps [ps]")
    parser.add_argument("--n-sparse", type=int, default=300, help="sparse points per term")
    parser.add_argument("--plot", metavar="FILE", help="image file")
    arguments = parser.parse_args()
    found = {name: study(name, arguments) for name in arguments.systems}
    if arguments.plot:
        plot(found, arguments.plot)


if __name__ == "__main__":
    main()
