"""Assertions that tell a learner what was expected and what came.

Messages hold the numbers that the learner's function returned: the diagnosis compares them with
those of the mutants.
"""

import numpy as np

SHOWN = 8  # arrays of at most this many entries are shown whole


def as_array(value) -> np.ndarray:
    """A numpy array of `value`: a number, a list, an array or a torch tensor (detached, on the CPU)."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, list | tuple) and any(hasattr(v, "detach") for v in value):
        value = [as_array(v) for v in value]
    return np.asarray(value)


def _show(x) -> str:
    x = np.asarray(x)
    if x.dtype.kind not in "fiub":
        return repr(x.tolist())
    if x.ndim == 0:
        return f"{float(x):.6g}" if x.dtype.kind == "f" else str(x.item())
    return "[" + ", ".join(_show(v) for v in x) + "]"


def _fail(text: str):
    raise AssertionError(text)


def expect_true(condition, message: str) -> None:
    """Fail with `message` unless `condition` holds."""
    if not bool(condition):
        _fail(message)


def expect_shape(actual, shape: tuple, what: str) -> np.ndarray:
    """`actual` has this shape; returns it as an array."""
    if actual is None:
        _fail(f"{what}: the function returned None. Is the return statement missing?")
    try:
        array = as_array(actual)
    except (TypeError, ValueError):
        _fail(f"{what}: expected shape {tuple(shape)}, got a {type(actual).__name__} that is no array")
    if array.shape != tuple(shape):
        _fail(f"{what}: expected shape {tuple(shape)}, got shape {array.shape}")
    return array


def expect_close(actual, expected, what: str, rtol: float = 1e-6, atol: float = 1e-8) -> None:
    """`actual` (numbers, array, tensor) equals `expected` in shape and, within the tolerances, in value."""
    want = as_array(expected).astype(float)
    got = expect_shape(actual, want.shape, what)
    if got.dtype.kind not in "fiub":
        _fail(f"{what}: expected numbers, got {got.tolist()!r}")
    got = got.astype(float)
    wrong = ~np.isclose(got, want, rtol=rtol, atol=atol, equal_nan=True)
    if not wrong.any():
        return
    if want.size <= SHOWN:
        _fail(f"{what}: expected {_show(want)}, got {_show(got)}")
    first = tuple(int(i) for i in np.argwhere(wrong)[0])
    _fail(
        f"{what}: {int(wrong.sum())} of {want.size} entries differ; at index {first} "
        f"expected {_show(want[first])}, got {_show(got[first])}"
    )


def expect_equal(actual, expected, what: str) -> None:
    """`actual == expected`, for numbers, strings, tuples, lists, dicts and whole arrays of integers."""
    if hasattr(expected, "shape") or hasattr(actual, "shape"):
        same = as_array(actual).shape == as_array(expected).shape
        same = same and bool((as_array(actual) == as_array(expected)).all())
        actual, expected = as_array(actual).tolist(), as_array(expected).tolist()
    else:
        same = actual == expected
    if not same:
        _fail(f"{what}: expected {expected!r}, got {actual!r}")


def expect_unchanged(before, after, what: str) -> None:
    """The function did not write into its input."""
    if not np.array_equal(as_array(before), as_array(after), equal_nan=True):
        _fail(f"{what} was changed in place: work on a copy, the caller still needs it")


def expect_raises(error: type, call, what: str) -> None:
    """`call()` raises `error`."""
    try:
        result = call()
    except error:
        return
    except Exception as other:
        _fail(f"{what}: expected {error.__name__}, got {type(other).__name__}: {other}")
    _fail(f"{what}: expected {error.__name__}, but it returned {result!r}")
