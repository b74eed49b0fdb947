"""The page of constants: every number in the code that decides a result, read from the code."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import itertools
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import kernelpot

# Those that a user may want to know of, by what they decide, and what a larger value trades.
TRADES = {
    "Size and noise of a fit": {
        "fit.defaults.N_SPARSE": "More points: smaller errors, a fit that grows with the square "
        "of their number and a prediction with the number. `preset=`, `n_sparse=`.",
        "fit.defaults.SIGMA_ENERGY": "Larger: energies weigh less against forces. `sigma_energy=`; "
        "where it is chosen, where the choice starts.",
        "fit.defaults.FORCES_SHARE": "Larger: smoother forces, larger errors where the labels are "
        "exact. `sigma_forces=`.",
        "fit.defaults.SIGMA_STRESS": "Larger: stresses weigh less. `sigma_stress=`.",
        "fit.scores.WEIGHTS": "What the choice of the noise minimizes: a larger weight buys "
        "smaller errors of that kind with larger ones of the others.",
        "fit.scores.PULL": "Larger: values nearer to the defaults, safer beyond the data; smaller: "
        "smaller errors of structures left out.",
        "fit.limits.TOLERATED": "Larger: more freedom for one kind of label at the cost of others.",
    },
    "Default kernels": {
        "fit.defaults.ELEMENT": "Per term: cutoff in length scales of the data, width of an atom "
        "as a share of the cutoff, n_max = l_max, zeta. A longer reach sees more and costs with "
        "its third power; wider atoms are smoother and see less.",
        "fit.defaults.COMPOUND": "The same for several species.",
        "fit.basis.MAX_LABELS": "More: larger sets of compounds are fitted both ways, with sparse "
        "points and as a whole form, which takes twice the time or more.",
        "fit.defaults.CONTRACTION": "Smaller: more channels of the density are kept, down to those "
        "that say next to nothing; larger: fewer features, and at some point larger errors.",
        "fit.defaults.MAX_CHANNELS": "More: the mixed channels keep apart more species and "
        "distances; features grow with its square.",
        "fit.defaults.MINIMUM_CUTOFF": "Longer: molecules in contact see each other further out, "
        "at more cost.",
        "terms.pair.N_SPARSE": "More: finer functions of distance.",
        "terms.polynomial_soap.MONOMIALS": "More: smaller errors, and a fit that grows with the "
        "square of their number.",
    },
    "The default baseline": {
        "fit.default_baseline.TOLERANCE": "Larger: the Morse functions are kept though frames left "
        "out are predicted worse; they are what holds atoms apart and together beyond the data.",
        "fit.default_baseline.REACH": "Longer: the baseline explains more, and can be wrong over a "
        "longer range.",
        "baseline.wall.WALL_INNER": "Larger, of both: the wall sets in further out.",
        "baseline.repulsion.LEAST_COST": "More: a stiffer wall, and shorter time steps on contact.",
    },
    "The safety net": {
        "safety.thresholds.KAPPA": "Larger: fewer structures that should not exist are believed, "
        "and energies just beyond the data are further above the true ones. "
        "`VarianceGate(kappa=)`.",
        "safety.thresholds.QUANTILE": "Larger: fewer atoms like those of the data are raised, and "
        "more unknown ones are not. `VarianceGate(std_known=)`.",
        "safety.thresholds.MARGIN": "Larger: the same trade.",
        "safety.thresholds.MANY_ATOMS": "More: the same trade, for data of few atoms.",
        "safety.thresholds.LARGEST_OF_FEW": "Larger: models of few data are left alone further "
        "out, and may sink by as much there.",
        "safety.thresholds.ENOUGH_STRUCTURES": "More: larger data sets are treated as few, and "
        "structures like their oddest ones raised.",
        "safety.thresholds.RELATIVE_WIDTH": "Wider: softer forces where the net sets in, and a "
        "later protection.",
        "safety.gate.BOND_ENERGY": "Larger: higher walls around the unknown, and larger forces.",
        "safety.gate.FLOOR_RISE": "Larger: the floor acts later.",
        "safety.gate.NOTICEABLE": "Only counts: `n_beyond`, warnings and `on_gate` go by it.",
        "safety.width.STIFFNESS": "Larger: a steeper onset, which needs shorter time steps.",
        "safety.damping.DAMPING_OUTER": "Larger: kernels are distrusted at longer distances.",
    },
    "Standard deviations": {
        "model.uncertainty.N_MEMBERS": "More: standard deviations less noisy (one part in the root "
        "of twice as many), at proportional cost.",
        "model.calibration.TAILS": "Larger: few large errors count more in the scale.",
        "model.calibration.MINIMUM_LABELS": "Larger: more species share one scale.",
        "fit.left_out.MAX_STRUCTURES": "More: a better known calibration and choice of noise, at "
        "proportional cost.",
    },
    "Suspects, and what to compute next": {
        "model.suspects.FLAGGED": "Larger: fewer false alarms, and fewer wrong labels found.",
        "learn.select_frames.UNLEARNED": "Smaller: more sparse points per chosen frame, more cost.",
        "learn.on_the_fly.WAITING": "Larger: fewer calls in a row for one event, and a longer way "
        "that is little known.",
    },
    "Bounds of dynamics": {
        "md.bounds.RARE": "Larger: runs are stopped by smaller fluctuations.",
        "md.bounds.HEAT": "Larger: reactions may release more before a run is stopped.",
        "md.vibration.MIN_STEPS_PER_PERIOD": "More: the warning of a long time step comes sooner.",
    },
    "Files": {
        "common.archive.FORMAT_VERSION": "Files of older formats are read; newer ones are refused.",
        "model.file._ENERGY_TOLERANCE": "By how much the energy of the structure inside a model "
        "file may differ when it is read [eV per atom; see the source].",
    },
}
# Classes whose defaults are written out.
WITH_DEFAULTS = (
    kernelpot.SOAPTerm,
    kernelpot.PairTerm,
    kernelpot.PolynomialSOAP,
    kernelpot.LinearMap,
    kernelpot.VarianceGate,
    kernelpot.Wall,
    kernelpot.PairBaseline,
    kernelpot.Ewald,
)
_HEAD = """# Constants

Every number in the code that decides a result, with its value. The page is written from the code at
each build: values are those of version {version}. Of those that are not arguments, change none
without measuring: most were chosen on training data, as the comments say.

"""


@dataclass(frozen=True)
class Constant:
    """A number, or a few, at the top of a module.

    Attributes
    ----------
    module, name : str
    value : object
    comment : str
        What stands above it in the code; of a block of constants, above the first.
    """

    module: str
    name: str
    value: Any
    comment: str

    @property
    def path(self) -> str:
        """Module and name, without the package."""
        return f"{self.module.removeprefix('kernelpot.')}.{self.name}"


def constants() -> Iterator[Constant]:
    """All constants that are numbers, in the order of the code."""
    found = pkgutil.walk_packages(kernelpot.__path__, "kernelpot.")
    for module_name in sorted(info.name for info in found):
        spec = importlib.util.find_spec(module_name)
        assert spec is not None
        assert spec.origin is not None
        text = Path(spec.origin).read_text(encoding="utf-8")
        lines = text.splitlines()
        comment, last = "", -2
        for node in ast.parse(text).body:
            if not isinstance(node, (ast.Assign, ast.AnnAssign)):
                continue
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [
                part.id
                for target in targets
                for part in (target.elts if isinstance(target, ast.Tuple) else [target])
                if isinstance(part, ast.Name)
            ]
            if not names or not all(name.strip("_").isupper() for name in names):
                continue
            above = _comment(lines, node.lineno - 1)
            comment = above or (comment if node.lineno == last + 1 else "")
            last = node.end_lineno or node.lineno
            module = importlib.import_module(module_name)
            for name in names:
                value = getattr(module, name)
                if _is_number(value):
                    yield Constant(module_name, name, value, comment)


def _comment(lines: list[str], at: int) -> str:
    """The comment that ends above a line, as one paragraph."""
    found: list[str] = []
    while at and lines[at - 1].startswith("#"):
        at -= 1
        found.insert(0, lines[at].lstrip("# ").strip())
    return " ".join(found)


def _is_number(value: Any) -> bool:
    if isinstance(value, (bool, str)) or value is None:
        return False
    if isinstance(value, dict):
        return bool(value) and all(_is_number(v) for v in value.values())
    if isinstance(value, (tuple, list)):
        return bool(value) and all(_is_number(v) for v in value)
    return isinstance(value, (int, float, np.ndarray, np.number)) or _is_plain_record(value)


def _is_plain_record(value: Any) -> bool:
    """Whether it is a dataclass instance of numbers."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return False
    return all(isinstance(v, (int, float)) for v in dataclasses.astuple(value))


def shown(value: Any) -> str:
    """A value as the page has it."""
    if isinstance(value, np.ndarray):
        if len(value) > 8:
            return f"{len(value)} from {value[0]:.3g} to {value[-1]:.3g}"
        value = value.tolist()
    if isinstance(value, dict):
        return ", ".join(f"{k}: {shown(v)}" for k, v in value.items())
    if isinstance(value, (tuple, list)):
        return ", ".join(
            f"({shown(v)})" if isinstance(v, (tuple, list)) or dataclasses.is_dataclass(v)
            else shown(v)
            for v in value
        )  # fmt: skip
    if dataclasses.is_dataclass(value):
        return ", ".join(shown(v) for v in dataclasses.astuple(value))
    if isinstance(value, float):
        return f"{value:.10g}"
    return f"{value:,}" if isinstance(value, int) and abs(value) > 9999 else str(value)


def _row(block: list[Constant], trades: str = "") -> str:
    """One entry of a definition list, of constants that share a comment."""
    terms = "; ".join(f"`{c.path}` = {shown(c.value)}" for c in block)
    text = [part for part in (block[0].comment.replace("*", r"\*"), trades) if part]
    return terms + "\n: " + ("\n\n  ".join(text) or "(see the source)") + "\n"


def page() -> str:
    """The page, in MyST.

    Raises
    ------
    ValueError
        If what is said here is of a constant that the code does not have.
    """
    found = {constant.path: constant for constant in constants()}
    explained = {path: text for part in TRADES.values() for path, text in part.items()}
    gone = sorted(set(explained) - set(found))
    if gone:
        raise ValueError(f"docs/_ext/constants.py explains what the code has not: {gone}")
    lines = [_HEAD.format(version=kernelpot.__version__)]
    for title, part in TRADES.items():
        lines.append(f"## {title}\n")
        lines += [_row([found[path]], text) for path, text in part.items()]
    lines.append("## Defaults of terms, gate and baseline\n")
    for cls in WITH_DEFAULTS:
        given = [f for f in dataclasses.fields(cls) if f.init]
        lines.append(f"{{py:class}}`kernelpot.{cls.__name__}`")
        lines.append(": " + "; ".join(f"`{f.name}` {_default(f)}" for f in given) + "\n")
    lines.append("## All others\n")
    lines.append("Tolerances of the numerics, sizes of batches, limits of what is looked at.\n")
    rest = [constant for path, constant in found.items() if path not in explained]
    for package in dict.fromkeys(c.module.split(".")[1] for c in rest):
        lines.append(f"### {package}\n")
        own = [c for c in rest if c.module.split(".")[1] == package]
        for _, block in itertools.groupby(own, key=lambda c: (c.module, c.comment)):
            lines.append(_row(list(block)))
    return "\n".join(lines)


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f"= {field.default!r}"
    if field.default_factory is not dataclasses.MISSING:
        return f"= {field.default_factory()!r}"
    return "(to be given)"
