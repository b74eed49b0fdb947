"""What a release is made of: the paper cites what it lists, templates ask for what is needed."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]

if not (ROOT / "paper").exists():
    pytest.skip("not beside the sources (installed package)", allow_module_level=True)


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_paper_cites_what_it_lists():
    listed = set(re.findall(r"^@\w+\{(\w+),", read("paper/paper.bib"), re.M))
    cited = set(re.findall(r"(?<![\w.])@(\w+)", read("paper/paper.md")))
    assert cited == listed


def test_figures_of_the_paper_are_those_of_the_readme():
    paper, readme = read("paper/paper.md"), read("README.md")
    for metal, energy, force in (("Si", "2.60", "0.061"), ("Mo", "2.44", "0.091"),
                                 ("Cu", "0.22", "0.006")):  # fmt: skip
        row = next(line for line in readme.splitlines() if line.startswith(f"| {metal} |"))
        assert energy in row
        assert force in row
        assert energy in paper
        assert force in paper


@pytest.mark.parametrize("name", ["bug", "accuracy", "idea"])
def test_issues_ask_for_what_the_model_says_of_itself(name):
    assert "kernelpot info" in read(f".github/ISSUE_TEMPLATE/{name}.yml")
