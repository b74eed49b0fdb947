"""Words and tables: what a model is, and how wrong it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ase.data import chemical_symbols

from kernelpot.baseline.reference import BaselineTerm
from kernelpot.common.cards import card, folded
from kernelpot.common.tables import number, table
from kernelpot.data.label_names import choices, lost_labels
from kernelpot.model.calibration import MINIMUM_LABELS
from kernelpot.model.self_test import SelfTest

# Constant virial per atom from which it is said that labels have one [eV].
_NOTICEABLE = 0.001


def error_table(errors: Mapping[str, Any]) -> str:
    """Table of `kernelpot.model.errors.evaluate`'s result."""
    header = [
        "",
        "structures",
        "E MAE",
        "E RMSE [meV/atom]",
        "F MAE",
        "F RMSE [eV/Å]",
        "stress MAE [GPa]",
    ]

    def row(name: str, e: Mapping[str, Any]) -> list[str]:
        return [
            name,
            str(e["n_structures"]),
            number(e["energy_mae_mev_per_atom"], 2),
            number(e["energy_rmse_mev_per_atom"], 2),
            number(e["forces_mae_ev_per_ang"], 4),
            number(e["forces_rmse_ev_per_ang"], 4),
            number(e["stress_mae_gpa"], 3),
        ]

    groups = errors["by_config_type"]
    rows = [row(name, e) for name, e in groups.items()] if len(groups) > 1 else []
    return table(header, [*rows, row("all", errors)])


def uncertainty_table(errors: Mapping[str, Any]) -> str:
    """Table of what `kernelpot.model.errors.evaluate` says of calibrated intervals."""
    header = [
        "",
        "within 68 %",
        "within 95 %",
        "rank correlation",
        "NLL",
        "NLL constant",
        "NLL bound",
    ]

    def rows(name: str, found: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
        return [
            [
                f"{name} {kind}",
                *(
                    number(None if judged[k] is None else 100 * judged[k], 1)
                    for k in ("coverage_68", "coverage_95")
                ),
                *(number(judged[k], 2) for k in ("spearman", "nll", "nll_constant", "nll_bound")),
            ]
            for kind, judged in found.items()
        ]

    groups = errors["by_config_type"]
    result = []
    if len(groups) > 1:
        for name, group in groups.items():
            result += rows(name, group["uncertainty"])
    text = table(header, [*result, *rows("all", errors["uncertainty"])])
    offset = errors.get("virial_offset_ev_per_atom", 0.0)
    if abs(offset) >= _NOTICEABLE and "stress" in errors["uncertainty"]:
        text += (
            f"\nstresses: of labels less the constant virial of {offset:.4g} eV per atom by which "
            "those of the\ntraining differ from the derivative of the energy; errors of stresses "
            "are those of labels as they are"
        )
    return text


def summary_text(model: Mapping[str, Any], baseline: Sequence[BaselineTerm]) -> str:
    """Explain a model (`KernelPotential.describe`) in plain words with units."""
    training = model["training"]
    lines = [
        f"kernelpot potential for {', '.join(model['species'])}, cutoff {model['r_cut']:.2f} Å",
        "",
        f"Fitted to {training['n_structures']} structures, {training['n_atoms']} atoms, "
        f"{training['n_rows']} labels:",
    ]
    lines[1:1] = _about_lines(model.get("about", {}))
    if model.get("slim"):
        lines.insert(1, "Slim: without the factor of the training, for prediction alone")
    lines[1:1] = [f"WARNING, {text}" for text in training.get("shortcomings", ())]
    if model["self_test"] is not None and not model["self_test"]["passed"]:
        lines[1:1] = [f"WARNING, {model['self_test']['verdict']}"]
    for kind, sources in training["sources"].items():
        read = ", ".join(f"{count} from {name}" for name, count in sources.items())
        lines.append(f"  {kind}: {read}")
    lost = lost_labels(training.get("unread", {}), training["n_structures"])
    lines += [f"  NOT READ, {sentence}" for sentence in lost]
    lines += [f"  {sentence}" for sentence in choices(training.get("unread", {}))]
    lines += ["", "Kernels (local energy = sum of):"]
    for t, term in enumerate(model["terms"]):
        counts = ", ".join(f"{s} {n} (rank {term['rank'][s]})" for s, n in term["n_sparse"].items())
        first, *others = term["description"]
        lines.append(f"  {t}: {first} ({term['n_features']} features)")
        lines += [f"     {line}" for line in others]
        lines.append(f"     sparse points ({term['sparse_method']}): {counts}")
        if term["spline_error"] is not None:
            lines.append(f"     evaluated by splines, within {term['spline_error']:.2g} eV of them")
    lines += [
        "",
        "Noise assumed in the labels:",
        f"  energy  {1e3 * model['sigma_energy']:.2f} meV per atom, times sqrt(N) in total",
        f"  forces  {model['sigma_forces']:.4f} eV/Å per component",
        f"  stress  {model['sigma_stress']:.4f} eV/Å^3 per component, over sqrt(N)",
    ]
    for name, sigmas in model["config_type_sigma"].items():
        values = ", ".join(f"{kind} {value:g}" for kind, value in sigmas.items())
        lines.append(f"  {name}: {values}")
    lines += _hyperparameter_lines(training["hyperparameters"])
    lines += ["", f"Isolated atoms ({model['e0_origin']}):"]
    lines += [f"  {s} {e:.4f} eV" for s, e in model["e0"].items()]
    if model["e0_note"]:
        lines.append(f"  {model['e0_note']}")
    if not baseline:
        lines += ["", "No baseline."]
    for term in baseline:
        heading, *facts = term.describe()
        lines += ["", heading, *[f"  {fact}" for fact in facts]]
    gate = model["gate"]
    lines += ["", "Safety net (on in calculators): energies beyond the data are pessimistic ones"]
    lines += [
        f"  {s}: known up to a local std of {known:.4f} eV; beyond, the penalty sets in over "
        f"{gate['width'][s]:.4f} eV"
        for s, known in gate["std_known"].items()
    ]
    lines.append(f"  {gate['origin']}")
    lines += ["", *_calibration_lines(model)]
    lines += ["", *_self_test_lines(model["self_test"])]
    if training["notes"]:
        lines += ["", "Choices made from the data, and what to know:"]
        lines += [f"  - {note}" for note in training["notes"]]
    lines += ["", f"Errors on {training['errors_of']}:", error_table(training["errors"])]
    return "\n".join(lines)


def summary_facts(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What to know first of a model (`KernelPotential.describe`), as names and values.

    Parameters
    ----------
    model : mapping

    Returns
    -------
    list of (str, str)
    """
    training, tested = model["training"], model["self_test"]
    facts = [("warning", sentence) for sentence in training.get("shortcomings", ())]
    facts += [
        ("species", ", ".join(model["species"])),
        ("cutoff", f"{model['r_cut']:.2f} Å"),
        (
            "fitted to",
            f"{training['n_structures']} structures, {training['n_atoms']} atoms, "
            f"{training['n_rows']} labels",
        ),
        (
            "noise",
            f"energy {1e3 * model['sigma_energy']:.2f} meV per atom, "
            f"forces {model['sigma_forces']:.4f} eV/Å, stress {model['sigma_stress']:.4f} eV/Å^3",
        ),
    ]
    for t, term in enumerate(model["terms"]):
        n = ", ".join(f"{symbol} {count}" for symbol, count in term["n_sparse"].items())
        facts.append((f"term {t}", f"{term['description'][0]}; sparse points: {n}"))
    named = [term["kind"] for term in model["baseline"]]
    facts.append(("baseline", ", ".join(named) if named else "none"))
    errors = training["errors"]
    if errors:
        found = [
            f"{name} {number(errors[key], digits)} {unit}"
            for name, key, digits, unit in (
                ("energy", "energy_mae_mev_per_atom", 2, "meV/atom"),
                ("forces", "forces_mae_ev_per_ang", 4, "eV/Å"),
                ("stress", "stress_mae_gpa", 3, "GPa"),
            )
            if errors.get(key) is not None
        ]
        facts.append((f"mean absolute errors on {training['errors_of']}", ", ".join(found)))
    facts.append(
        (
            "standard deviations",
            "NOT calibrated" if model["calibration"] is None else "those of errors (calibrated)",
        )
    )
    facts.append(("self-test", "not made" if tested is None else tested["verdict"]))
    return facts


def summary_card(model: Mapping[str, Any], text: str) -> str:
    """Show a model (`KernelPotential.describe`) in a notebook.

    Parameters
    ----------
    model : mapping
    text : str
        Its whole summary, to be folded away.

    Returns
    -------
    str
        HTML.
    """
    return card("KernelPotential", summary_facts(model), folded("summary", text))


def _calibration_lines(model: Mapping[str, Any]) -> list[str]:
    """What standard deviations mean, and where they come from."""
    found, species = model["calibration"], model["species"]
    if found is None:
        return [
            "WARNING, standard deviations are not calibrated: they are those of the posterior,",
            "  which errors may exceed by factors of up to some tens. Ten structures and",
            "  fit(calibrate=True) are needed.",
        ]
    lines = [
        "Predicted standard deviations are those of errors, from "
        f"{found['n_structures']} structures left out:"
    ]
    units = {"energy": "eV, times sqrt(N)", "forces": "eV/Å", "stress": "eV/Å^3"}
    for kind, by_species in found["models"].items():
        for z, own in by_species.items():
            name = kind if z == "0" else f"{kind} on {chemical_symbols[int(z)]}"
            if z == "0" and len(by_species) > 1:
                others = [s for s in species if str(chemical_symbols.index(s)) not in by_species]
                if not others:
                    continue
                name = (
                    f"{kind} on {', '.join(others)} (as of all species together: fewer than "
                    f"{MINIMUM_LABELS} labels of their own)"
                )
            if kind == "stress" and abs(model["virial_offset"]) >= _NOTICEABLE:
                name += f" (less the labels' constant of {model['virial_offset']:+.3f} eV per atom)"
            lines.append(
                f"  {name}: {own['scale']:.3g} times what the data leave open, and "
                f"{own['constant']:.3g} {units[kind]} everywhere"
            )
    if found.get("growth"):
        above, below = (1.0 + found["growth"][name] for name in ("power", "power_below"))
        where = "" if above == below else f" of {above:g}, and of {below:g} where little is,"
        lines.append(
            "  what is left open around an atom counts to the power"
            f"{where or f' of {above:g},'} as errors of structures left out do"
        )
    return lines


def _about_lines(about: Mapping[str, str | None]) -> list[str]:
    """Where the model is from."""
    parts = []
    if about.get("date"):
        parts.append(f"fitted {about['date']} with kernelpot {about['version']}")
    if about.get("author"):
        parts.append(f"by {about['author']}")
    if about.get("licence"):
        parts.append(f"licence {about['licence']}")
    if about.get("data_hash"):
        parts.append(f"data {str(about['data_hash'])[:12]}")
    return [", ".join(parts)] if parts else []


def _self_test_lines(found: Mapping[str, Any] | None) -> list[str]:
    """What the model's test of itself found."""
    if found is None:
        return ["The model has not tested itself."]
    return [
        f"Self-test: {line}" if k == 0 else line
        for k, line in enumerate(SelfTest.from_dict(found).lines())
    ]


def _hyperparameter_lines(record: Mapping[str, Any]) -> list[str]:
    """How noise and prior scales were chosen, before and after."""
    if record["method"] is None:
        return []
    how = {
        "loo": "leaving one structure out",
        "evidence": "the evidence",
    }[record["method"]]
    changed = [
        f"{name} {before:.3g} -> {after:.3g}"
        for name, (before, after) in record["sigmas"].items()
        if before != after
    ] + [f"delta of term {t} x {f:.3g}" for t, f in enumerate(record["delta_factors"]) if f != 1.0]
    lines = [
        f"  Chosen by {how} ({record['n_structures']} structures): "
        + (", ".join(changed) if changed else "the defaults are as good as any"),
        f"  Effective number of parameters: {record['n_parameters']:.0f}",
    ]
    lines.append(
        "  Error of structures left out (mean absolute): "
        + ", ".join(
            f"{kind} {found} {_LEFT_OUT[kind][2]}" for kind, found in _left_out(record["loo"])
        )
    )
    # models written before errors were kept by config type have none
    groups = record["loo"].get("by_config_type", {})
    if len(groups) > 1:
        lines += [f"    {line}" for line in _left_out_table(groups).split("\n")]
    return lines


# Factor, digits and unit of errors of structures left out.
_LEFT_OUT = {
    "energy": (1e3, 2, "meV/atom"),
    "forces": (1.0, 4, "eV/Å"),
    "stress": (1.0, 5, "eV/Å^3"),
}


def _left_out(errors: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Kinds that have labels, each with its error before and after."""
    before, after = errors["before"], errors["after"]
    return [
        (kind, f"{scale * before[kind]:.{digits}f} -> {scale * after[kind]:.{digits}f}")
        for kind, (scale, digits, _) in _LEFT_OUT.items()
        if before[kind] is not None
    ]


def _left_out_table(groups: Mapping[str, Any]) -> str:
    """Table of errors of structures left out, by config type."""
    found = {name: dict(_left_out(errors)) for name, errors in groups.items()}
    kinds = [kind for kind in _LEFT_OUT if any(kind in row for row in found.values())]
    return table(
        ["", "structures", *(f"{kind} [{_LEFT_OUT[kind][2]}]" for kind in kinds)],
        [
            [name, str(groups[name]["n_structures"]), *(row.get(kind, "-") for kind in kinds)]
            for name, row in found.items()
        ],
    )
