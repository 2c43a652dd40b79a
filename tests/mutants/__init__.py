"""Named wrong versions of the exercises."""
