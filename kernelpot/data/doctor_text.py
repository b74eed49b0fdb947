"""What the label doctor found, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kernelpot.common.tables import extent, number, table
from kernelpot.data.label_names import choices


def data_report_text(facts: Mapping[str, Any], warnings: Sequence[str]) -> str:
    """Explain what `kernelpot.data.doctor.check_dataset` found.

    Parameters
    ----------
    facts : mapping
        `DataReport.facts`.
    warnings : sequence of str

    Returns
    -------
    str
    """
    lines = [*_contents(facts), "", _ranges(facts["groups"], facts["all"]), ""]
    lines += [*_distances_and_atoms(facts), *_tests(facts), ""]
    untested = "; ".join(facts["untested"])
    if warnings:
        lines += ["Look at this:", *(f"  - {warning}" for warning in warnings)]
        if untested:
            lines.append(f"Could not be tested: {untested}.")
    elif untested:
        lines.append(
            f"Nothing suspicious in what could be tested. Could not be tested: {untested}."
        )
    else:
        lines.append("Nothing suspicious.")
    return "\n".join(lines)


def _contents(facts: Mapping[str, Any]) -> Iterator[str]:
    """Sizes, and where labels came from."""
    yield (
        f"{facts['n_structures']} structures, {facts['n_atoms']} atoms, {facts['n_rows']} labels; "
        + ", ".join(f"{n} {s}" for s, n in facts["species"].items())
    )
    yield ""
    yield "Labels were read from:"
    for kind, sources in facts["sources"].items():
        read = ", ".join(f"{name} in {count} frames" for name, count in sources.items())
        yield f"  {kind}: {read}"
    for kind, names in facts["unread"].items():
        found = ", ".join(f"{name} in {e['n_frames']} frames" for name, e in names.items())
        yield f"  not read, {kind}: {found} (--{kind}-key reads another name)"
    yield from (f"  {sentence}" for sentence in choices(facts["unread"]))
    missing = [
        f"{facts[f'without_{kind}']} without {kind}"
        for kind in ("energy", "forces", "virial")
        if facts[f"without_{kind}"]
    ]
    if missing:
        yield f"  {', '.join(missing)}"


def _ranges(groups: Mapping[str, Mapping[str, Any]], everything: Mapping[str, Any]) -> str:
    """Ranges of the labels of each config type, and of all."""
    header = [
        "", "structures", "atoms", "E [eV/atom]", "max |F| [eV/Å]", "rms |F|", "pressure [GPa]",
    ]  # fmt: skip

    def row(name: str, r: Mapping[str, Any]) -> list[str]:
        return [
            name,
            str(r["n_structures"]),
            str(r["n_atoms"]),
            extent(r["energy_per_atom_ev"], 3),
            number(r["max_force_ev_per_ang"], 2),
            number(r["rms_force_ev_per_ang"], 3),
            extent(r["pressure_gpa"], 2),
        ]

    rows = [row(name, r) for name, r in groups.items()] if len(groups) > 1 else []
    return table(header, [*rows, row("all", everything)])


def _distances_and_atoms(facts: Mapping[str, Any]) -> Iterator[str]:
    """Shortest distances, and free atoms."""
    yield "Shortest distances [Å]:"
    shortest = [f"{pair} {d:.3f}" for pair, d in facts["shortest_distances"].items()]
    yield "  " + (", ".join(shortest) if shortest else "none below 4 Å")
    if facts["isolated_atoms"]:
        found = ", ".join(f"{s} {e:.4f} eV" for s, e in facts["isolated_atoms"].items())
        yield f"Isolated atoms: {found}"
    if facts["without_isolated_atom"]:
        yield (
            f"No isolated atom of {', '.join(facts['without_isolated_atom'])}: energies are fitted "
            "relative to least-squares e0, dissociation energies will mean nothing"
        )


def _tests(facts: Mapping[str, Any]) -> Iterator[str]:
    """How labels agree with each other."""
    if facts["composition"] is not None:
        yield (
            "Energies against composition: rms residual "
            f"{facts['composition']['rms_residual_ev_per_atom']:.3f} eV/atom"
        )
    yield (
        f"Frames with all forces exactly zero: {facts['zero_force_frames']}; repeated frames: "
        f"{sum(len(g) - 1 for g in facts['duplicates'])}; largest net force "
        f"{facts['max_net_force_ev_per_ang']:.2g} eV/Å"
    )
    virial = facts["virial_test"]
    if virial is None:
        yield "Virials against energies: not tested (no strained copies of a cell)"
    else:
        known = virial["offset_error_ev_per_atom"] * virial["offset_gpa"]
        known = abs(known / virial["offset_ev_per_atom"]) if virial["offset_ev_per_atom"] else 0.0
        yield (
            f"Virials against energies ({virial['n_pairs']} strained pairs): slope "
            f"{virial['slope']:.3f} (1 is right), constant {virial['offset_gpa']:+.2f} +- "
            f"{known:.2f} GPa of pressure beyond the energies, explained "
            f"{100 * virial['explained']:.1f} %"
        )
    model = facts["label_test"]
    if model is not None:
        yield (
            f"A small model of the forces ({model['n_functions']} functions, {model['n_frames']} "
            f"frames): correlation {model['forces_correlation']:.3f}"
            + "".join(
                f"; {kind} slope {model[kind]['slope']:.3g} ({model[kind]['correlation']:.3f})"
                for kind in ("energy", "virial")
                if model[kind] is not None
            )
        )
    gradient = facts["gradient_test"]
    if gradient["n_pairs"]:
        yield (
            f"Forces against energies: {gradient['n_pairs'] - gradient['n_wrong']} of "
            f"{gradient['n_pairs']} pairs of nearly equal frames agree"
        )
    else:
        yield "Forces against energies: not tested (no nearly equal frames)"
