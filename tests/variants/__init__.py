"""Correct but different versions of the exercises."""
