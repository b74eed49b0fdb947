"""The report: one HTML file that holds its figures and the numbers of evaluate."""

import base64
import json
import sys
import types
from html.parser import HTMLParser

import ase.io
import numpy as np
import pytest
from ase import Atoms

import kernelpot as kp
from kernelpot.cli.verbs import main
from kernelpot.plot.scans import Curve, dimer_curves
from kernelpot.report.diagnosis import diagnose
from kernelpot.report.html import write_report
from tests.conftest import label, rattled_alloy


class Page(HTMLParser):
    """Tables, images, headings and balance of tags of a page."""

    VOID = ("meta", "img")

    def __init__(self, text):
        super().__init__()
        self.rows, self.images, self.headings, self.links = [], {}, [], []
        self.open, self.words = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.links += [v for k, v in attributes.items() if k in ("src", "href")]
        if tag == "img":
            self.images[attributes["alt"]] = attributes["src"]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)
        if self.open and self.open[-1] in ("p", "pre", "li", "figcaption"):
            self.words.append(data)


@pytest.fixture(scope="module")
def unseen():
    """Two groups of structures, one of them stretched far beyond the data, one mislabelled."""
    frames = [label(rattled_alloy(900 + s, (1, 1, 1)), "near <data>") for s in range(5)]
    far = rattled_alloy(950, (1, 1, 1))
    far.set_cell(1.6 * far.cell, scale_atoms=True)
    wrong = label(rattled_alloy(951, (1, 1, 1)), "near <data>")
    wrong.info["REF_energy"] += 40.0
    return kp.read_dataset([*frames, label(far, "far"), wrong])


@pytest.fixture(scope="module")
def written(potential, unseen, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    facts = write_report(potential, unseen, path, title="a & b")
    return path, facts, Page(path.read_text(encoding="utf-8"))


def test_errors_in_the_page_are_those_of_evaluate(written, potential, unseen):
    _, facts, page = written
    errors = kp.evaluate(potential, unseen)
    assert facts["errors"] == errors
    rows = {row[0]: row[1:] for row in page.rows if len(row) == 4}
    for name, e in {"all": errors, **errors["by_config_type"]}.items():
        assert rows[f"{name} ({e['n_structures']})"] == [
            f"{e['energy_mae_mev_per_atom']:.2f} / {e['energy_rmse_mev_per_atom']:.2f}",
            f"{e['forces_mae_ev_per_ang']:.4f} / {e['forces_rmse_ev_per_ang']:.4f}",
            f"{e['stress_mae_gpa']:.3f}",
        ]
    # whatever a config type is called, it is text
    assert "near <data> (6)" in rows


def test_errors_of_each_species(written, potential, unseen):
    _, facts, page = written
    found = facts["errors_by_species"]
    assert set(found) == {"Al", "Cu"}
    wrong = np.concatenate(
        [
            (potential.predict(f.atoms).forces - f.forces)[f.atoms.numbers == 13].ravel()
            for f in unseen
        ]
    )
    assert found["Al"]["forces_mae_ev_per_ang"] == pytest.approx(np.abs(wrong).mean())
    assert found["Al"]["n_atoms"] == len(wrong) / 3
    assert ["Al", str(len(wrong) // 3)] in [row[:2] for row in page.rows]


def test_the_worst_structures_are_named_and_drawn(written, potential, unseen):
    _, facts, page = written
    errors = [1e3 * (potential.predict(f.atoms).energy - f.energy) / len(f) for f in unseen]
    worst = int(np.argmax(np.abs(errors)))
    assert facts["worst"][0]["index"] == worst
    assert facts["worst"][0]["energy_error"] == pytest.approx(errors[worst])
    (caption,) = [words for words in page.words if words.startswith(f"{unseen[worst].name}: ")]
    assert "crystal, 4 atoms per cell" in caption
    assert f"energy off by {errors[worst]:+.2f} meV/atom" in caption
    assert f"structure: {unseen[worst].name}" in page.images


def test_the_page_needs_no_other_file(written):
    path, _, page = written
    assert {
        "data: energy", "data: forces", "data: distances", "parity: energy", "parity: forces",
        "parity: stress", "uncertainty", "calibration", "scan: Al-Cu", "map: Al", "map: Cu",
    } <= set(page.images)  # fmt: skip
    inside = [link[1:] for link in page.links if link.startswith("#")]
    assert inside
    text = path.read_text(encoding="utf-8")
    assert all(f'id="{name}"' in text for name in inside)
    for source in page.links:
        if source.startswith("#"):
            continue
        kind, _, content = source.partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(content, validate=True).startswith(b"\x89PNG")
    assert "<script" not in text
    assert "http" not in text
    # a phone does not pretend to be a wide screen
    assert 'name="viewport" content="width=device-width' in text
    assert page.headings[0] == "a & b"
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_summary_limits_and_atoms_beyond(written, potential, unseen):
    _, facts, page = written
    assert any(potential.summary() in words for words in page.words)
    gate = potential.describe()["gate"]
    known, width = gate["std_known"], gate["width"]
    rows = {row[0]: row[1:] for row in page.rows if len(row) == 4 and row[0] in ("Al", "Cu")}
    counts = {"Al": 0, "Cu": 0}
    for frame in unseen:
        penalty = potential.predict(frame.atoms, gate=True).penalty
        for symbol, added in zip(frame.atoms.symbols, penalty, strict=True):
            counts[symbol] += added > 1e-3
    assert 0 < counts["Al"] + counts["Cu"] < sum(len(f) for f in unseen)
    for symbol in ("Al", "Cu"):
        of = sum(list(f.atoms.symbols).count(symbol) for f in unseen)
        assert rows[symbol][0] == f"{known[symbol]:.4f}"
        assert rows[symbol][1] == f"{width[symbol]:.4f}"
        assert rows[symbol][2] == f"{counts[symbol]} of {of}"
    assert facts["gated"]["n_atoms"] == sum(counts.values())


def test_a_mislabelled_structure_is_named(written, unseen):
    _, facts, page = written
    assert facts["suspects"][0]["name"] == unseen[6].name
    assert unseen[6].name in [row[0] for row in page.rows if len(row) == 4]


def test_curves_are_predictions_with_the_gate_and_without(written, potential):
    _, facts, page = written
    assert [c["name"] for c in facts["dimers"]] == ["Al-Al", "Al-Cu", "Cu-Cu"]
    curve = facts["dimers"][1]
    e0 = potential.fitted_.e0.e0
    for k in (0, 100, 225):
        atoms = Atoms("AlCu", [[0, 0, 0], [0, 0, curve["x"][k]]])
        for name, gate in (("gated", True), ("ungated", False)):
            found = potential.predict(atoms, gate=gate)
            energy = found.energy - e0[13] - e0[29]
            assert curve[name][k] == pytest.approx(energy, abs=1e-9)
            if gate:
                assert curve["penalty"][k] == pytest.approx(found.penalty.max(), abs=1e-9)
        known = potential.model.reference.labels(atoms)[0] - e0[13] - e0[29]
        assert curve["baseline"][k] == pytest.approx(known, abs=1e-9)
    assert np.all(np.array(curve["gated"]) >= np.array(curve["ungated"]) - 1e-9)
    # at the shortest distances nothing is known, and the wall repels
    assert curve["penalty"][0] > 1.0
    for found in [*facts["dimers"], *facts["compressions"]]:
        assert found["repulsive"] is True
        assert [found["name"], "rises throughout"] in page.rows
    assert len(facts["compressions"]) == 3
    assert max(facts["compressions"][0]["penalty"]) > 1.0
    assert min(facts["compressions"][0]["penalty"]) == 0.0


def test_a_curve_that_falls_inward_is_not_called_repulsive():
    x = np.linspace(1.0, 3.0, 5)
    flat = np.zeros(5)

    def curve(energy, contact=2.2):
        return Curve("A-B", x, np.array(energy), flat, flat, flat, flat, flat, contact)

    assert curve([5.0, 4.0, 3.0, 9.0, 10.0]).repulsive is True
    assert curve([3.0, 4.0, 3.0, 2.0, 1.0]).repulsive is False
    assert curve([5.0, 4.0, 3.0, 2.0, 1.0], None).repulsive is None


def test_reliability_is_of_the_calibrated_standard_deviations(potential, unseen):
    found = diagnose(potential, unseen).reliability
    assert found.calibrated
    assert found.n_structures == 7
    std, error = [], []
    for frame in unseen:
        p = potential.predict(frame.atoms, return_std=True)
        std.append(p.interval(None).forces.ravel())
        error.append((p.forces - frame.forces).ravel())
    std, error = np.concatenate(std), np.concatenate(error)
    np.testing.assert_allclose(np.sort(found.std), np.sort(std), rtol=1e-9)
    assert found.coverage["1"] == pytest.approx(np.mean(np.abs(error) <= std))
    # bins populated equally (up to one): their squares average to the whole
    assert np.mean(found.bin_rmse**2) == pytest.approx(np.mean(error**2), rel=0.05)


def test_pairs_that_the_baseline_refuses_are_said(small_terms, labelled):
    pot = kp.KernelPotential(
        small_terms, baseline=[kp.Wall(), kp.Ewald(charges={"Cu": 0.0, "Al": 0.0})]
    ).fit(labelled, optimize=None, calibrate=False)
    notes = []
    assert len(dimer_curves(pot, notes)) == 3
    assert notes == []
    original = pot.predict_many

    def refuses(structures, **options):
        if len(structures[0]) == 2 and set(structures[0].numbers) == {13}:
            raise ValueError("the charges do not add up")
        return original(structures, **options)

    pot.predict_many = refuses
    assert [c.name for c in dimer_curves(pot, notes)] == ["Al-Cu", "Cu-Cu"]
    assert notes == ["no curve of Al-Al: the charges do not add up"]


def test_data_without_forces_or_uncertainty(potential, tmp_path):
    frames = []
    for s in range(3):
        atoms = rattled_alloy(800 + s, (1, 1, 1))
        atoms.info["REF_energy"] = label(atoms).info["REF_energy"]
        frames.append(atoms)
    facts = write_report(potential, frames, tmp_path / "r.html")
    assert facts["reliability"] is None
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert any("no forces to judge" in words for words in page.words)
    assert "calibration" not in page.images


def test_environments_for_chemiscope(potential, unseen, tmp_path, monkeypatch):
    written = {}

    def write_input(path, **content):
        written.update(content, path=path)

    module = types.SimpleNamespace(write_input=write_input)
    monkeypatch.setitem(sys.modules, "chemiscope", module)
    path = str(tmp_path / "map.json.gz")
    write_report(potential, unseen, tmp_path / "r.html", chemiscope=path, title="here")
    assert (written["path"], written["metadata"]) == (path, {"name": "here"})
    n = sum(len(f) for f in unseen)
    assert len(written["environments"]) == n
    assert written["environments"] == sorted(written["environments"])
    for number in (0, n // 2, n - 1):
        structure, center, _ = written["environments"][number]
        atoms = written["structures"][structure]
        assert written["properties"]["species"]["values"][number] == atoms.symbols[center]
        std = written["properties"]["local std"]["values"][number]
        assert std == pytest.approx(potential.local_std(atoms)[center])
    with pytest.raises(ValueError, match="ends in .json or .json.gz"):
        write_report(potential, unseen, tmp_path / "r.html", chemiscope=str(tmp_path / "map.txt"))
    monkeypatch.setitem(sys.modules, "chemiscope", None)
    with pytest.raises(ImportError, match="pip install chemiscope"):
        write_report(potential, unseen, tmp_path / "r.html", chemiscope=path)


# ---- command line ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(potential, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report_cli")
    potential.save(folder / "model.kpot")
    frames = [label(rattled_alloy(900 + s, (1, 1, 1)), "a") for s in range(3)]
    ase.io.write(folder / "data.xyz", frames, format="extxyz")
    frames[0].numbers[0] = 79
    ase.io.write(folder / "gold.xyz", frames, format="extxyz")
    return folder


def test_the_command(files, tmp_path, capsys):
    out = tmp_path / "r.html"
    status = main(
        ["report", str(files / "model.kpot"), str(files / "data.xyz"), "-o", str(out),
         "--quiet", "--json", "-"]
    )  # fmt: skip
    assert status == 0
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert facts["errors"]["n_structures"] == 3
    assert f"wrote {out}" in captured.err
    assert f"{facts['errors']['forces_mae_ev_per_ang']:.4f}" in out.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        ("data.xyz", "data.xyz", "is not a kernelpot model file"),
        ("absent.kpot", "data.xyz", "absent.kpot"),
        ("model.kpot", "absent.xyz", "no file matches"),
        ("model.kpot", "gold.xyz", "gold.xyz:0: unknown species Au"),
    ],
)
def test_wrong_files_are_refused(files, tmp_path, capsys, model, data, message):
    out = tmp_path / "r.html"
    assert main(["report", str(files / model), str(files / data), "-o", str(out), "--quiet"]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("kernelpot: ")
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_one_sentence_says_what_to_do(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    out = tmp_path / "r.html"
    arguments = ["report", str(files / "model.kpot"), str(files / "data.xyz"), "-o", str(out)]
    assert main([*arguments, "--quiet"]) == 2
    assert "pip install matplotlib" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(potential, unseen, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no directory"):
        write_report(potential, unseen[:2], tmp_path / "no" / "r.html")
