"""Statements of the text that a lab checks when it runs."""


class ClaimFailed(AssertionError):
    """A statement of the course did not hold in this run."""


def claim(text: str, condition: bool) -> None:
    """Print the statement if it holds in this run.

    Raises:
        ClaimFailed: if it does not, so that a lab can never show a statement that its own run contradicts.
    """
    if not bool(condition):
        raise ClaimFailed(f"this run contradicts: {text}")
    print(f"✓ {text}")
