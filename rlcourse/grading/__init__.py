"""Grading: one set of graders for the lab's `check`, for pytest and for submitted notebooks."""

from rlcourse.grading.check import check

__all__ = ["check"]
