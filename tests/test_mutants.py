"""The graders are graded: every mutant is killed, every diagnosis is unambiguous, every variant passes."""

import inspect

import pytest

from rlcourse.grading.exercises import alternatives, load_exercises, reference
from rlcourse.grading.graders import diagnose, graders_of, run_graders, signature_problem

EXERCISES = load_exercises()


def pairs(folder):
    return [
        pytest.param(ex, suffix, id=f"{ex.chapter}-{ex.name}__{suffix}")
        for ex in EXERCISES.values()
        for suffix in alternatives(ex, folder)
    ]


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=lambda ex: f"{ex.chapter}-{ex.name}")
def test_an_exercise_is_complete(exercise):
    assert inspect.getdoc(reference(exercise)), "the reference needs a docstring"
    assert graders_of(exercise), "no grader takes this exercise as its only argument"
    assert len(alternatives(exercise, "mutants")) >= 4, "at least four mutants"
    assert alternatives(exercise, "variants"), "at least one correct but different version"
    assert run_graders(exercise, reference(exercise)) == []


@pytest.mark.parametrize("exercise, suffix", pairs("mutants"))
def test_a_mutant_is_killed_and_named(exercise, suffix):
    mutant = alternatives(exercise, "mutants")[suffix]
    text = " ".join((inspect.getdoc(mutant) or "").split())
    assert len(text) > 30, "a mutant's docstring is the diagnosis that the learner reads"
    assert not signature_problem(mutant, reference(exercise)), "a mutant has the reference's parameters"
    failures = run_graders(exercise, mutant)
    assert failures, "the mutant survives: the graders accept a wrong answer"
    assert diagnose(exercise, failures) == text, "another mutant gives the same messages: tell them apart"


@pytest.mark.parametrize("exercise, suffix", pairs("variants"))
def test_a_correct_variant_passes(exercise, suffix):
    variant = alternatives(exercise, "variants")[suffix]
    assert not signature_problem(variant, reference(exercise))
    assert run_graders(exercise, variant) == []
