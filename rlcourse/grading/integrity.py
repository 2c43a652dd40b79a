"""Did the submission change what the graders rely on, or return something that only looks right?"""

import builtins
import enum
import sys
import types

FUNCTIONS = ("builtins", "math", "operator", "numpy", "torch", "rlcourse", "tests")
COMPARES = {  # what makes an object pass a comparison that it should fail
    *(
        "__eq__",
        "__ne__",
        "__lt__",
        "__le__",
        "__gt__",
        "__ge__",
        "__bool__",
        "__float__",
        "__int__",
        "__index__",
    ),
    *(
        "__array__",
        "__array_ufunc__",
        "__array_function__",
        "__torch_function__",
        "__getattribute__",
        "__class__",
    ),
    *("__sub__", "__rsub__", "__abs__", "__array_interface__", "__array_struct__", "__buffer__", "detach"),
}
PLAIN = (int, float, complex, str, bytes, bool, type(None))
DEPTH = 6
TORCH = {
    "allclose",
    "isclose",
    "equal",
    "eq",
    "tensor",
    "as_tensor",
    "from_numpy",
    "zeros",
    "ones",
    "softmax",
}


class Snapshot:
    """The functions and classes that the graders rely on, as they were before the submission ran."""

    def __init__(self, module: types.ModuleType):
        names = [n for n in list(sys.modules) if n.split(".")[0] in FUNCTIONS and _small_torch(n)]
        spaces = [(n, sys.modules[n]) for n in names] + [(module.__name__, module)]
        if torch := sys.modules.get("torch"):
            spaces.append(("torch.Tensor", torch.Tensor))
        self.values, self.codes = [], []
        for owner, space in spaces:
            self._add(owner, space)
            if owner.startswith(("rlcourse", "tests")):
                for value in list(vars(space).values()):
                    if isinstance(value, type):
                        self._add(f"{owner}.{value.__name__}", value)
        self.hooks = (sys.gettrace(), sys.getprofile(), sys.excepthook, builtins.__import__)

    def _add(self, owner: str, space) -> None:
        kept = {k: v for k, v in list(vars(space).items()) if callable(v) or isinstance(v, types.ModuleType)}
        if owner == "torch":  # parts of torch replace some of its functions when they are first used
            kept = {k: v for k, v in kept.items() if k in TORCH}
        self.values.append((owner, space, kept))
        for name, function in kept.items():
            function = getattr(function, "_implementation", function)
            if isinstance(function, types.FunctionType):
                self.codes.append((f"{owner}.{name}", function, *_state(function)))

    def changed(self) -> str:
        """The first thing that is no longer what it was, such as 'numpy.isclose'; '' if there is none."""
        for owner, space, kept in self.values:
            now = vars(space)
            for name, value in kept.items():
                if now.get(name) is not value:
                    return f"{owner}.{name}"
        for name, function, *before in self.codes:
            if any(a is not b for a, b in zip(before, _state(function), strict=True)):
                return name
        if self.hooks != (sys.gettrace(), sys.getprofile(), sys.excepthook, builtins.__import__):
            return "a hook of the interpreter"
        return ""


def _state(function) -> tuple:
    return function.__code__, function.__defaults__, function.__kwdefaults__


def _small_torch(name: str) -> bool:
    """Of torch's two thousand modules, those whose functions graders call."""
    return not name.startswith("torch.") or name in (
        "torch.nn.functional",
        "torch.functional",
        "torch.autograd",
    )


def known_types() -> set[int]:
    """The ids of all classes that exist now."""
    found, queue = set(), [object]
    while queue:
        cls = queue.pop()
        if id(cls) not in found:
            found.add(id(cls))
            queue += type.__subclasses__(cls)
    return found


def forged(value, known: set[int], depth: int = 0) -> str:
    """Why a result is not to be trusted: its class comes with the submission and redefines comparisons."""
    cls = type(value)
    if cls in PLAIN or depth > DEPTH:
        return ""
    if id(cls) not in known:
        for base in type.__dict__["__mro__"].__get__(cls):
            own = set(type.__dict__["__dict__"].__get__(base)) if id(base) not in known else set()
            own -= {"__eq__"} if "__dataclass_params__" in own else set()
            if bad := sorted(own & COMPARES):
                where = f"the result is of a class {base.__name__!s:.40}"
                return f"{where} that defines {bad[0]}: return plain numbers"
        bases = type.__dict__["__mro__"].__get__(cls)
        if {float, int, str} & set(bases) and enum.Enum not in bases:
            return f"the result is of the class {cls.__name__!s:.40}: return a plain number"
    if isinstance(value, dict):
        parts = [*dict.keys(value), *dict.values(value)]
    elif isinstance(value, tuple | list | set | frozenset):
        parts = list(value) if cls in (tuple, list, set, frozenset) else [*_iterate(value)]
    else:
        return ""
    return next(filter(None, (forged(v, known, depth + 1) for v in parts[:1000])), "")


def _iterate(value):
    """The items of a subclass of a container, by the container's own iterator."""
    base = next(b for b in (tuple, list, set, frozenset) if isinstance(value, b))
    return base.__iter__(value)


def watched(implementation, known: set[int]):
    """The learner's function, its results looked at before a grader compares them."""
    if isinstance(implementation, type) or not callable(implementation):
        return implementation

    def call(*arguments, **keywords):
        result = implementation(*arguments, **keywords)
        if problem := forged(result, known):
            raise AssertionError(problem)
        return result

    call.__name__ = call.__qualname__ = getattr(implementation, "__name__", "implementation")
    call.__doc__ = getattr(implementation, "__doc__", None)
    call.__wrapped__ = implementation
    return call
