"""From a ``gap_fit`` command to a configuration of ``kernelpot fit``, with nothing lost silently.

What options mean is as the documentation and the papers of GAP say [1]_, [2]_.

References
----------
.. [1] https://libatoms.github.io/GAP/gap_fit.html
.. [2] Klawohn et al., J. Chem. Phys. 159, 174108 (2023).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from kernelpot.cli.gap_command import GapCommand, GapDescriptor, is_true, numbers
from kernelpot.data.dataset import Dataset
from kernelpot.terms.kinds import TERMS

# Sigma of labels, in gap_fit's order.
_KINDS = ("energy", "forces", "stress")
_SPARSE = {
    "cur_points": "cur",
    "cur_covariance": "cur",
    "uniform": "farthest_point",
    "covariance": "farthest_point",
    "cluster": "kmeans",
    "random": "random",
}
_NEEDLESS = "not needed: kernel matrices are whitened by their eigenvalues"
_FILES = "one file holds the model"
# Options of the command that have no equivalent, and why that is no loss, or what is.
_NO_EQUIVALENT = {
    "sparse_jitter": _NEEDLESS,
    "condition_number_norm": "not reported",
    "do_copy_at_file": _FILES,
    "sparse_separate_file": _FILES,
    "copy_at_file": _FILES,
    "verbosity": "the summary says what was done; see also --quiet",
    "openmp_chunk_size": "threads are set by --threads or KERNELPOT_NUM_THREADS",
    "mpi_blocksize_rows": "on a cluster: fit(client=...)",
    "mpi_blocksize_cols": "on a cluster: fit(client=...)",
    "mpi_print_all": "on a cluster: fit(client=...)",
    "do_ip_timing": "see the summary",
    "template_file": "no template is needed",
    "sparsify_only_no_fit": "sparse points are chosen in the fit itself",
    "dryrun": "kernelpot check shows what is read",
    "do_e0_avg": "see e0",
    "e0_offset": "NO EQUIVALENT: add it to the energies of [e0]",
    "core_param_file": "NO EQUIVALENT HERE: a potential that is subtracted is a `baseline`, in "
    "Python: KernelPotential(baseline=[Wall(), PairBaseline(...)])",
    "core_ip_args": "NO EQUIVALENT HERE: see core_param_file",
    "sigma_per_atom": "sigmas of energies grow with the root of the number of atoms, as for T",
    "hessian_parameter_name": "NO EQUIVALENT: Hessians are not fitted",
    "hessian_delta": "NO EQUIVALENT: Hessians are not fitted",
    "force_mask_parameter_name": "NO EQUIVALENT: leave the forces of a frame out, or give it a "
    "config type with a large sigma",
    "parameter_name_prefix": "NO EQUIVALENT: put it before the names in [keys]",
    "local_property_parameter_name": "NO EQUIVALENT: local properties are not fitted",
    "local_property_mask_parameter_name": "NO EQUIVALENT: local properties are not fitted",
    "local_property_sigma": "NO EQUIVALENT: local properties are not fitted",
    "sigma_parameter_name": "sigmas of single frames are read as sigma_energy, sigma_forces and "
    "sigma_virial of atoms.info",
    "force_mask": "NO EQUIVALENT",
    "config_file": "its options are NOT READ: give the file itself to kernelpot import-gap",
    "sparse_use_actual_gpcov": "covariances are exact",
    "max_local_property": "NO EQUIVALENT: local properties are not fitted",
}
# The same of descriptors.
# For GAP's ways of having fewer features.
_CONTRACTION = (
    "NO EQUIVALENT: `contraction` = 1e-7, with `n_channels`, mixes radial functions and species as "
    "the data ask for it"
)
_OF_DESCRIPTORS = {
    "add_species": "terms have a function of its own for every species, or pair of species",
    "n_species": "species are those of the data",
    "species_Z": "species are those of the data",
    "n_Z": "species are those of the data",
    "Z": "terms act on every species of the data",
    "Z1": "terms act on every pair of species of the data",
    "Z2": "terms act on every pair of species of the data",
    "Z_center": "terms act on every kind of triplet of the data",
    "central_index": "terms act on every species of the data",
    "order": "says which term",
    "compact_clusters": "says which term",
    "normalise": "features are always normalized",
    "normalize": "features are always normalized",
    "unique_hash_tolerance": "equal environments are found by their features",
    "unique_descriptor_tolerance": "equal environments are found by their features",
    "print_sparse_index": "the model file has the sparse points",
    "mark_sparse_atoms": "pot.plot.sparse_points shows them",
    "Name": "a name",
    "name": "a name",
    "f0": "the mean of the prior is zero (and the energy of free atoms in e0)",
    "basis_error_exponent": "radial functions are dscribe's",
    "config_type_n_sparse": "NO EQUIVALENT: sparse points are chosen from all data alike; in "
    "Python `sparse_points` names them",
    "sparse_file": "NO EQUIVALENT: in Python `sparse_points` names environments",
    "theta_fac": "NO EQUIVALENT: a length relative to the extent of the data; set length_scale",
    "theta_file": "NO EQUIVALENT: set length_scale",
    "radial_scaling": "NO EQUIVALENT: the density falls smoothly over the whole range",
    "radial_enhancement": "NO EQUIVALENT: the density falls smoothly over the whole range",
    "cutoff_scale": "NO EQUIVALENT",
    "cutoff_rate": "NO EQUIVALENT",
    "cutoff_dexp": "NO EQUIVALENT",
    "basis": "radial functions are dscribe's",
    "central_reference_all_species": "NO EQUIVALENT",
    "average": "NO EQUIVALENT: environments are compared one by one",
    "compress_mode": _CONTRACTION,
    "compress_file": _CONTRACTION,
    "R_mix": _CONTRACTION,
    "Z_mix": _CONTRACTION,
    "sym_mix": _CONTRACTION,
    "coupling": _CONTRACTION,
    "K": _CONTRACTION,
    "nu_R": "NO EQUIVALENT: see `compression` (mu1nu1, mu2)",
    "nu_S": "NO EQUIVALENT: see `compression` (mu1nu1, mu2)",
    "atom_sigma_r_scaling": "NO EQUIVALENT: Gaussians do not widen with distance",
    "atom_sigma_t_scaling": "NO EQUIVALENT: Gaussians do not widen with distance",
    "amplitude_scaling": "NO EQUIVALENT: see `cutoff_power`",
    "scaling_mode": "NO EQUIVALENT: see `cutoff_power`",
    "only_intra": "NO EQUIVALENT: all pairs within the cutoff count",
    "only_inter": "NO EQUIVALENT: all pairs within the cutoff count",
    "resid_name": "NO EQUIVALENT: all pairs within the cutoff count",
}
_UNKNOWN = "NOT KNOWN, and not translated"
# Of stresses [eV/Å^3]: a kernel cannot see labels as uncertain as this.
_NO_WEIGHT = 1000.0
# Names that say that there is no such label.
_UNUSED = re.compile(r"not_?used|unused|dummy|none|nope|no_?virial|no_?force", re.IGNORECASE)


@dataclass
class Line:
    """One line of the configuration: a parameter, and what it comes from."""

    name: str
    value: Any
    note: str


@dataclass
class Translation:
    """A configuration, and what could not be part of it.

    Attributes
    ----------
    top : list of Line
        Parameters of `KernelPotential`.
    tables : dict of str to list of Line
        ``e0``, ``keys``, ``config_type_sigma.NAME``.
    terms : list of list of Line
    notes : list of str
        Remarks on terms, in the same order.
    left : list of (str, str, str)
        Options without an equivalent: where, what, and why.
    command : list of str
        What to run: training file and name of the model.
    """

    top: list[Line] = field(default_factory=list)
    tables: dict[str, list[Line]] = field(default_factory=dict)
    terms: list[list[Line]] = field(default_factory=list)
    left: list[tuple[str, str, str]] = field(default_factory=list)
    train: str = "train.xyz"
    model: str = "model.kpot"
    remarks: list[str] = field(default_factory=list)

    def to_toml(self) -> str:
        """Text of the configuration, with comments."""
        run = f"kernelpot fit {self.train} -o {self.model} --config THIS_FILE.toml"
        lines = ["# from a gap_fit command by kernelpot import-gap; to fit:", f"#   {run}"]
        lines += [f"# {remark}" for remark in self.remarks]
        if self.left:
            lines += ["#", "# Options of gap_fit that no line below stands for:"]
            lines += [f"#   {where}{name}: {why}" for where, name, why in self.left]
        lines += ["", *map(_toml, self.top)]
        for name, table in self.tables.items():
            lines += ["", f"[{name}]", *map(_toml, table)]
        for term in self.terms:
            lines += ["", "[[terms]]", *map(_toml, term)]
        return "\n".join(lines) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "train": self.train,
            "parameters": {line.name: line.value for line in self.top},
            **{name: {x.name: x.value for x in table} for name, table in self.tables.items()},
            "terms": [{x.name: x.value for x in term} for term in self.terms],
            "not_translated": [
                {"where": where.strip(), "option": name, "why": why}
                for where, name, why in self.left
            ],
            "remarks": list(self.remarks),
        }


def _toml(line: Line) -> str:
    value = line.value
    if isinstance(value, (bool, str)):
        text = json.dumps(value, ensure_ascii=False)
    elif isinstance(value, float) and value == int(value) and abs(value) < 1e15:
        text = f"{value:.1f}"
    else:
        text = repr(value)
    name = line.name if re.fullmatch(r"[A-Za-z0-9_-]+", line.name) else json.dumps(line.name)
    return f"{name} = {text}" + (f"  # {line.note}" if line.note else "")


def translate(command: GapCommand, data: Dataset | None = None) -> Translation:
    """Write the configuration that is nearest to a ``gap_fit`` command.

    Parameters
    ----------
    command : GapCommand
    data : Dataset, optional
        The training data, for what is per species or per volume in one program and not in the
        other.

    Returns
    -------
    Translation

    Raises
    ------
    ValueError
        If a value is no number where there must be one.
    """
    found = Translation()
    options = dict(command.options)
    species = _species(command, data)
    _files(options, found)
    _sigmas(options, data, found)
    _keys(options, data, found)
    _free_atoms(options, species, found)
    if "rnd_seed" in options:
        seed = int(numbers(options.pop("rnd_seed"))[0])
        found.top.append(Line("seed", abs(seed), "rnd_seed"))
    for name, value in options.items():
        why = _NO_EQUIVALENT.get(name, _UNKNOWN)
        if name == "e0_offset" and numbers(value) == [0.0]:
            why = "zero here too"
        found.left.append(("", f"{name}={_short(value)}", why))
    translated = [
        term
        for number, descriptor in enumerate(command.descriptors)
        if (term := _term(descriptor, number, species, found)) is not None
    ]
    found.terms = _merged(translated, found)
    if not found.terms:
        found.remarks.append("None of the descriptors has an equivalent: default terms are taken.")
    found.remarks.append(
        "A wall at short distances and, where it pays, fitted Morse functions are added by default."
    )
    if species is None:
        found.remarks.append(
            "The species are not known here: n_sparse counts all of them together (gap_fit: each)."
        )
    return found


def _unread_virials(options: dict[str, str], data: Dataset | None) -> str | None:
    """Why gap_fit would not have read the virials of the data, if it would not."""
    given = options.get("virial_parameter_name", options.get("stress_parameter_name", ""))
    names = {f.sources.get("virial", "") for f in data or () if f.virial is not None}
    if (given and not _UNUSED.search(given)) or not names - {given or "virial"}:
        return None
    shown = ", ".join(sorted(names))
    return f"gap_fit reads virials named {given or 'virial'}, those of the data are {shown}"


def _species(command: GapCommand, data: Dataset | None) -> list[int] | None:
    """Atomic numbers, from the data or what the command says."""
    if data is not None:
        return list(data.species)
    known = {
        chemical_symbols.index(symbol)
        for symbol in re.findall(r"[A-Z][a-z]?", command.options.get("e0", ""))
        if symbol in chemical_symbols
    }
    for descriptor in command.descriptors:
        for name in ("species_Z", "Z", "Z1", "Z2", "Z_center"):
            if name in descriptor.options:
                known |= {int(z) for z in re.findall(r"\d+", descriptor.options[name])}
    return sorted(known) or None


def _files(options: dict[str, str], found: Translation) -> None:
    for name in ("at_file", "atoms_filename"):
        if name in options:
            found.train = options.pop(name)
    if "gp_file" in options:
        base = os.path.basename(options.pop("gp_file"))
        found.model = f"{os.path.splitext(base)[0]}.kpot"


def _sigmas(options: dict[str, str], data: Dataset | None, found: Translation) -> None:
    unread = _unread_virials(options, data)
    for name in ("default_sigma", "default_kernel_regularisation"):
        if name not in options:
            continue
        values = numbers(options.pop(name))
        for kind, line in _sigma_lines(values, name, _volume(data, None), unread):
            if line is None:
                found.left.append(("", f"{name}, {kind[0]}", kind[1]))
            else:
                line.name = f"sigma_{line.name}"
                found.top.append(line)
    for name in ("config_type_sigma", "config_type_kernel_regularisation"):
        if name not in options:
            continue
        parts = [part.strip() for part in re.sub(r"[{}\"']", "", options.pop(name)).split(":")]
        if len(parts) % 5:
            raise ValueError(
                f"{name} must be groups of name:energy:force:virial:hessian, got {len(parts)} parts"
            )
        for k in range(0, len(parts), 5):
            if data is not None and parts[k] not in data.config_types:
                why = "the data have no such config type"
                found.left.append(("", f"{name}, {parts[k]}", why))
                continue
            group, values = parts[k], [numbers(part)[0] for part in parts[k + 1 : k + 5]]
            table = []
            for kind, line in _sigma_lines(values, name, _volume(data, group), unread):
                if line is not None:
                    table.append(line)
                else:
                    found.left.append(("", f"{name}, {group}, {kind[0]}", kind[1]))
            if table:
                quoted = group if re.fullmatch(r"[A-Za-z0-9_-]+", group) else json.dumps(group)
                found.tables[f"config_type_sigma.{quoted}"] = table
    if unread is not None:
        note = f"these labels count for nothing, as {unread}; delete the line to learn from them"
        found.top.append(Line("sigma_stress", _NO_WEIGHT, note))


def _sigma_lines(
    values: Sequence[float], source: str, volume: float | None, unread: str | None
) -> list[tuple[tuple[str, str], Line | None]]:
    """Sigmas of energies, forces and stresses, or why there is none."""
    result: list[tuple[tuple[str, str], Line | None]] = []
    for kind, value in zip((*_KINDS, "Hessians"), values, strict=False):
        what = f"{kind} {value:g}"
        if kind == "Hessians":
            if value > 0:
                result.append(((what, "NO EQUIVALENT: Hessians are not fitted"), None))
        elif value <= 0:
            why = "zero leaves these labels out; here the fit chooses it, if there are any"
            result.append(((what, why), None))
        elif kind == "stress" and unread is not None:
            result.append(((f"virials {value:g}", unread), None))
        elif kind == "stress" and volume is None:
            why = (
                "in gap_fit of virials [eV per atom]: divide by the volume per atom to have "
                "sigma_stress [eV/Å^3]; until then the fit chooses it"
            )
            result.append(((f"virials {value:g}", why), None))
        elif kind == "stress" and volume is not None:
            note = f"{source}: virials {value:g} eV per atom, at {volume:.1f} Å^3 per atom [eV/Å^3]"
            result.append(((what, ""), Line(kind, float(f"{value / volume:.4g}"), note)))
        else:
            unit = {"energy": "eV/atom", "forces": "eV/Å"}[kind]
            result.append(((what, ""), Line(kind, value, f"{source} [{unit}]")))
    return result


def _volume(data: Dataset | None, group: str | None) -> float | None:
    """Mean volume per atom of structures with stresses, of a config type [Å^3]."""
    if data is None:
        return None
    own = [f for f in data if f.virial is not None and group in (None, f.config_type)]
    if not own:
        return _volume(data, None) if group is not None else None
    return float(np.mean([f.atoms.get_volume() / len(f) for f in own]))


def _keys(options: dict[str, str], data: Dataset | None, found: Translation) -> None:
    table = []
    for name, key in (
        ("energy_parameter_name", "energy"),
        ("force_parameter_name", "forces"),
        ("virial_parameter_name", "virial"),
        ("stress_parameter_name", "stress"),
        ("config_type_parameter_name", "config_type"),
    ):
        if name not in options:
            continue
        value = options.pop(name)
        if _UNUSED.search(value):
            found.left.append(("", f"{name}={value}", "a name for labels that are not there"))
        elif key == "config_type" and value == "config_type":
            found.left.append(("", f"{name}={value}", "read under this name anyway"))
        else:
            note = name
            if key in ("virial", "stress"):
                note += "; without such labels in the data delete this line"
            table.append(Line(key, value, note))
    if table:
        found.tables["keys"] = table


def _free_atoms(options: dict[str, str], species: Sequence[int] | None, found: Translation) -> None:
    method = options.pop("e0_method", None)
    given = options.pop("e0", None)
    if given is not None:
        pairs = re.findall(r"([A-Z][a-z]?)\s*:\s*([-+0-9.eEdD]+)", given)
        if pairs:
            found.tables["e0"] = [Line(s, numbers(value)[0], "e0 [eV]") for s, value in pairs]
        elif species is not None and len(numbers(given)) == 1:
            energy = numbers(given)[0]
            found.tables["e0"] = [
                Line(chemical_symbols[z], energy, "e0, one number for all [eV]") for z in species
            ]
        else:
            why = "energies of free atoms [eV] by element are wanted in [e0]"
            found.left.append(("", f"e0={_short(given)}", why))
        if method is not None:
            found.left.append(("", f"e0_method={method}", "e0 is given"))
    elif method == "average":
        note = "e0_method=average; by element here. Better: isolated atoms in the data"
        found.top.append(Line("e0", "least_squares", note))
    elif method == "isolated":
        found.top.append(Line("e0", "isolated", "e0_method"))
    elif method is not None:
        found.left.append(("", f"e0_method={method}", _UNKNOWN))


def _term(
    descriptor: GapDescriptor,
    number: int,
    species: Sequence[int] | None,
    found: Translation,
) -> list[Line] | None:
    """One term, or None where there is none of its kind."""
    where = f"descriptor {number + 1} ({descriptor.name}), "
    options = dict(descriptor.options)
    order = int(numbers(options.get("order", "0"))[0])
    name = {2: "distance_2b", 3: "angle_3b"}.get(order, descriptor.name)
    kind = {"soap": "soap", "soap_turbo": "soap", "distance_2b": "pair", "angle_3b": "triplet"}.get(
        name
    )
    if kind is None or kind not in TERMS:
        text = " ".join(f"{k}={_short(v)}" for k, v in options.items())
        why = f"NO EQUIVALENT: there are terms of the kinds {', '.join(TERMS)}"
        found.left.append((f"descriptor {number + 1}, ", f"{descriptor.name} {text}", why))
        return None
    lines = [Line("kind", kind, f"descriptor {number + 1}: {descriptor.name}")]
    fixed = any(z in options for z in ("Z", "Z1", "Z_center", "central_index")) or (
        "add_species" in options and not is_true(options["add_species"])
    )
    if kind == "soap":
        lines += _soap(options, name == "soap_turbo", where, found)
        n_classes = 1 if fixed or species is None else len(species)
    else:
        lines += _distances(options, where, found)
        n = 1 if fixed or species is None else len(species)
        n_classes = n * (n + 1) // 2 if kind == "pair" else n * n * (n + 1) // 2
    if "delta" in options:
        lines.append(Line("delta", numbers(options.pop("delta"))[0], "[eV]"))
    if "n_sparse" in options:
        each = int(numbers(options.pop("n_sparse"))[0])
        note = "" if n_classes == 1 else f"n_sparse={each} for each of {n_classes}"
        if each > 0:
            lines.append(Line("n_sparse", each * n_classes, note))
    if "sparse_method" in options:
        method = options.pop("sparse_method").lower()
        if method in _SPARSE:
            lines.append(Line("sparse_method", _SPARSE[method], f"sparse_method={method}"))
        else:
            why = "NO EQUIVALENT: in Python `sparse_points` names environments"
            found.left.append((where, f"sparse_method={method}", why))
    for option, value in options.items():
        why = _OF_DESCRIPTORS.get(option, _UNKNOWN)
        if option == "f0" and numbers(value) == [0.0]:
            why = "zero here too"
        found.left.append((where, f"{option}={_short(value)}", why))
    return lines


def _soap(options: dict[str, str], turbo: bool, where: str, found: Translation) -> list[Line]:
    """Parameters of a SOAP term; what was used is taken out of `options`."""
    lines = []
    for name, key, unit in (
        ("cutoff", "r_cut", "[Å]"),
        ("rcut_hard", "r_cut", "rcut_hard [Å]"),
        ("n_max", "n_max", ""),
        ("alpha_max", "n_max", "alpha_max"),
        ("l_max", "l_max", ""),
        ("atom_sigma", "sigma_atom", "atom_sigma [Å]"),
        ("atom_gaussian_width", "sigma_atom", "atom_gaussian_width [Å]"),
        ("atom_sigma_r", "sigma_atom", "atom_sigma_r [Å]"),
        ("zeta", "zeta", ""),
    ):
        if name not in options:
            continue
        values = numbers(options.pop(name))
        value: float = values[0]
        if len(set(values)) > 1:
            value = max(values) if key == "n_max" else float(np.mean(values))
            shown = " ".join(f"{v:g}" for v in values)
            unit = f"{unit or name}, of {shown}: one value for all species"
        whole = value == int(value)
        if key in ("n_max", "l_max") and not whole:
            raise ValueError(f"{name} must be a whole number, got {value:g}")
        whole = whole and key in ("n_max", "l_max", "zeta")
        lines.append(Line(key, int(value) if whole else value, unit))
    weights = numbers(options.pop("central_weight", "1.0"))
    if set(weights) == {1.0}:
        why = (
            "the default here, 0.2, as the density of neighbors falls over the whole range; with "
            "1.0 errors of silicon are larger by a third (energies) and an eighth (forces)"
        )
        found.left.append((where, f"central_weight={_short(' '.join(map(str, weights)))}", why))
    else:
        note = "a fifth of gap_fit's: densities of neighbors fall over the whole range here"
        lines.append(Line("central_weight", max(0.2 * float(np.mean(weights)), 0.01), note))
    for name, why in (
        ("cutoff_transition_width", "the density falls smoothly over the whole range"),
        ("rcut_soft", "the density falls smoothly over the whole range"),
        ("atom_sigma_t", "one width in all directions: that of atom_sigma_r"),
    ):
        if name in options:
            value_text = _short(options.pop(name))
            found.left.append((where, f"{name}={value_text}", f"NO EQUIVALENT: {why}"))
    kernel = options.pop("covariance_type", "dot_product").lower()
    if kernel not in ("dot_product", "dot_prod"):
        why = "NO EQUIVALENT: SOAP terms have the dot product to the power zeta"
        found.left.append((where, f"covariance_type={kernel}", why))
    elif turbo or kernel:
        found.left.append((where, f"covariance_type={kernel}", "the kernel of SOAP terms"))
    return lines


def _distances(options: dict[str, str], where: str, found: Translation) -> list[Line]:
    """Parameters of a term of distances; what was used is taken out of `options`."""
    lines = []
    width = numbers(options.pop("cutoff_transition_width", "0.5"))[0]
    for name, key in (("cutoff", "r_cut"), ("theta_uniform", "length_scale")):
        if name in options:
            values = numbers(options.pop(name))
            note = f"{name} [Å]"
            if len(set(values)) > 1:
                note += f", of {' '.join(f'{v:g}' for v in values)}: one value for all"
            lines.append(Line(key, float(np.mean(values)), note))
    lines.append(Line("cutoff_width", width, "cutoff_transition_width [Å] (0.5 by default)"))
    kernel = options.pop("covariance_type", "ard_se").lower()
    why = "the kernel of such terms"
    if kernel != "ard_se":
        why = "NO EQUIVALENT: the kernel is a Gaussian of distances"
    found.left.append((where, f"covariance_type={kernel}", why))
    return lines


def _merged(terms: Sequence[list[Line]], found: Translation) -> list[list[Line]]:
    """Join terms that differ in nothing but the species they were for."""
    merged: list[list[Line]] = []
    seen: dict[str, list[Line]] = {}
    for term in terms:
        same = json.dumps({x.name: x.value for x in term if x.name != "n_sparse"}, sort_keys=True)
        own = next((x for x in term if x.name == "n_sparse"), None)
        if same in seen:
            first = next((x for x in seen[same] if x.name == "n_sparse"), None)
            if own is not None and first is not None:
                first.value += own.value
                first.note = "sum over the descriptors that differ in species alone"
            seen[same][0].note += f", {term[0].note.removeprefix('descriptor ')}"
            continue
        seen[same] = term
        merged.append(term)
    kinds = [term[0].value for term in merged]
    if any(kinds.count(kind) > 1 for kind in set(kinds)):
        found.remarks.append(
            "Terms of the same kind all act on every species; if they were for one each, delete "
            "all but one."
        )
    return merged


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:56]} ..."
