"""The GitHub workflows: least rights, no secrets, and commands that exist."""

import re

import pytest
import yaml

from rlcourse.grading.exercises import ROOT

PATHS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
every_workflow = pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)


def steps(path):
    return [s for job in yaml.safe_load(path.read_text())["jobs"].values() for s in job["steps"]]


def test_there_are_two():
    assert [p.stem for p in PATHS] == ["ci", "grade"]


@every_workflow
def test_a_workflow_may_only_read(path):
    text = path.read_text()
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in text and "secrets." not in text
    for step in steps(path):
        if "checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False
        # text that a stranger can choose (titles, branch names) must not get into a shell command
        assert "${{" not in step.get("run", "")


@every_workflow
def test_a_workflow_ends(path):
    for job in yaml.safe_load(path.read_text())["jobs"].values():
        assert job["timeout-minutes"] <= 60


@every_workflow
def test_its_commands_exist(path):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for step in steps(path):
        for target in re.findall(r"\bmake (?:-C \w+ )?([a-z]+)", step.get("run", "")):
            assert target in targets
        for script in re.findall(r"^\.\S+", step.get("run", ""), re.MULTILINE):
            assert (ROOT / script).stat().st_mode & 0o100, f"{script} cannot be executed"


def test_notebooks_are_graded_and_never_run():
    text = (ROOT / ".github" / "workflows" / "grade.yml").read_text()
    assert not re.search(r"nbval|nbconvert|papermill|jupyter|run-labs|ipython", text)
