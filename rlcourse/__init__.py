"""Plumbing of the course. It holds no algorithm that the course teaches: those are in `solutions`."""
