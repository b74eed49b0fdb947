"""Objects say what they are, in a terminal and in a notebook."""

from html.parser import HTMLParser

import pytest

import kernelpot as kp
from kernelpot.md.dynamics import run_dynamics
from tests.conftest import rattled_alloy


class Text(HTMLParser):
    """What is to be read in a piece of HTML, whose tags must be balanced."""

    def __init__(self, html):
        super().__init__()
        self.words, self.open = [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def crystal():
    return rattled_alloy(3, (1, 1, 1))


@pytest.fixture(scope="module")
def objects(potential, labelled, crystal):
    data = kp.read_dataset(labelled)
    predicted = potential.predict(crystal, return_std=True, gate=True)
    committee = potential.sample(3, 0)
    calculator = potential.calculator()
    crystal.copy().calc = calculator
    return {
        "potential": potential,
        "unfitted": kp.KernelPotential(n_sparse=7),
        "data": data,
        "frame": data[0],
        "prediction": predicted,
        "posterior": predicted.posterior,
        "interval": predicted.interval(),
        "committee": committee,
        "committee prediction": committee.predict(crystal),
        "calculator": calculator,
        "errors": kp.evaluate(potential, data[:3]),
        "suspects": potential.suspicious(data),
        "report": data.check(),
        "plots": potential.plot,
        "dynamics": run_dynamics(crystal, potential.calculator(), steps=2, interval=1),
    }


NAMES = (
    "potential", "unfitted", "data", "frame", "prediction", "posterior", "interval", "committee",
    "committee prediction", "calculator", "errors", "suspects", "report", "plots", "dynamics",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_text_names_the_object_and_is_short(objects, name):
    shown = repr(objects[name])
    assert "object at 0x" not in shown
    assert "array(" not in shown
    assert "\n" not in shown
    if name not in ("errors", "potential", "plots"):
        assert shown.startswith(type(objects[name]).__name__ + "(")
        assert len(shown) < 500


SHOWN = ("potential", "unfitted", "data", "prediction", "committee", "calculator", "errors",
         "suspects", "report")  # fmt: skip


@pytest.mark.parametrize("name", SHOWN)
def test_a_notebook_shows_it_without_script_or_network(objects, name):
    html = objects[name]._repr_html_()
    assert Text(html).words
    assert "<script" not in html
    assert "http" not in html


def test_numbers_are_those_of_the_object(objects, crystal):
    predicted = objects["prediction"]
    for shown in (repr(predicted), predicted._repr_html_()):
        assert f"{predicted.energy:.5f} ± {predicted.energy_std:.5f} eV" in shown
    data = objects["data"]
    words = Text(data._repr_html_()).words
    at = words.index("bulk")
    assert words[at : at + 6] == ["bulk", "14", "4", "14", "14", "14"]
    assert "Al, Cu" in words
    pot = objects["potential"]
    words = Text(pot._repr_html_()).words
    assert any(pot.summary() in text for text in words)
    assert any("24 structures" in text for text in words)
    assert "those of errors (calibrated)" in words
    errors = objects["errors"]
    assert f"{errors['forces_mae_ev_per_ang']:.4f}" in Text(errors._repr_html_()).words
    assert repr(objects["committee"]) == "Committee(3 potentials for Al, Cu)"
    assert "n_sparse" in Text(objects["unfitted"]._repr_html_()).words


def test_a_calculator_says_how_its_net_is_set(potential):
    assert "safety net on" in repr(potential.calculator())
    assert "safety net off" in repr(potential.calculator(gate=None))
    assert "'stop'" in repr(potential.calculator(on_gate="stop"))
    calculator = potential.calculator()
    atoms = rattled_alloy(3, (1, 1, 1), 0.15)
    atoms.calc = calculator
    atoms.get_potential_energy()
    shown = calculator._repr_html_()
    assert "evaluations" in shown
    assert "n_beyond" in shown


def test_names_in_data_are_text(labelled):
    frames = [labelled[0].copy()]
    frames[0].info["config_type"] = "<b>bold & brave</b>"
    assert "<b>bold" not in kp.read_dataset(frames)._repr_html_()
