"""Reads pickles of dictionaries, lists, strings, integers and uint8 arrays without `pickle`.

A pickle is a program: `pickle` calls what it names and allocates the sizes it claims. Even a pickle that names nothing
can fill the memory with seven bytes. The interpreter here supports only the instructions that such data needs, treats
the few names that NumPy arrays need as symbols, calls nothing, and builds no more than the file's length allows.
"""

import pickletools
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

import numpy as np

MAX_INSTRUCTIONS = 250_000  # an official batch has 30,098; each may take about 100 bytes


class _Symbol(Enum):
    """The meaning of a name, or an array that has no content yet."""

    RECONSTRUCT = auto()
    ARRAY = auto()
    DTYPE = auto()
    ENCODE = auto()
    UNFILLED = auto()


NAMES = {
    "numpy.core.multiarray _reconstruct": _Symbol.RECONSTRUCT,
    "numpy._core.multiarray _reconstruct": _Symbol.RECONSTRUCT,  # in NumPy 2
    "numpy ndarray": _Symbol.ARRAY,
    "numpy dtype": _Symbol.DTYPE,
    "_codecs encode": _Symbol.ENCODE,  # Python 3 writes bytes this way in protocol 2
}


def loads(content: bytes) -> Any:
    """Builds the object in a pickle of protocol 2, 3 or 4. Strings of Python 2 become bytes.

    Raises:
        ValueError, IndexError, TypeError, OverflowError: the pickle is damaged or contains another kind of object.
    """
    machine = _Machine(len(content))
    for count, (instruction, argument, _) in enumerate(pickletools.genops(content)):
        if count >= MAX_INSTRUCTIONS:
            raise ValueError(f"more than {MAX_INSTRUCTIONS} instructions")
        if instruction.name not in INSTRUCTIONS:
            raise ValueError(f"unsupported instruction {instruction.name}")
        INSTRUCTIONS[instruction.name](machine, argument)
    (result,) = machine.stack
    return result


class _Machine:
    """Executes the instructions of a pickle.

    Attributes:
        stack: objects, from the outermost to the one that is being built.
        marks: the lengths of the stack at the start of each object of unknown length.
        memo: objects that can be recalled.
        budget: how many more bytes may come from encoding strings.
    """

    def __init__(self, budget: int):
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.budget = budget

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self, count: int) -> list[Any]:
        """Removes and returns the last `count` objects, in their order."""
        start = len(self.stack) - count
        if start < 0:
            raise ValueError("it pops from an empty stack")
        popped = self.stack[start:]
        del self.stack[start:]
        return popped

    def pop_marked(self) -> list[Any]:
        return self.pop(len(self.stack) - self.marks.pop())

    def remember(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def recall(self, key: int) -> None:
        if key not in self.memo:
            raise ValueError(f"it recalls object {key}, which it has not stored")
        self.push(self.memo[key])

    def name(self, text: str) -> None:
        if text not in NAMES:
            raise ValueError(f"it names {text}, which is not supported")
        self.push(NAMES[text])

    def name_from_stack(self) -> None:
        module, name = self.pop(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("it has a name that is not a string")
        self.name(f"{module} {name}")

    def extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError("it appends to an object that is not a list")
        self.stack[-1].extend(items)

    def update(self, items: list[Any]) -> None:
        keys, values = items[::2], items[1::2]
        # hashing nested tuples alone could take forever
        if not isinstance(self.stack[-1], dict) or not all(isinstance(key, bytes | str) for key in keys):
            raise ValueError("it has a dictionary with keys that are not strings")
        self.stack[-1].update(zip(keys, values, strict=True))

    def reduce(self) -> None:
        """Evaluates the few calls that are known, without calling anything."""
        symbol, arguments = self.pop(2)
        if not isinstance(symbol, _Symbol):
            raise ValueError("it calls an object that is not a name")
        match symbol, arguments:
            case _Symbol.RECONSTRUCT, _:
                self.push(_Symbol.UNFILLED)
            case _Symbol.DTYPE, (str() | bytes() as code, _, _) if code in ("u1", b"u1"):
                self.push(np.dtype(np.uint8))
            case _Symbol.ENCODE, (str() as text, str() as codec) if codec == "latin1" and len(text) <= self.budget:
                self.budget -= len(text)  # a string recalled repeatedly would grow without bound
                self.push(text.encode("latin1"))
            case _:
                raise ValueError("it contains an object that is not a uint8 array")

    def build(self) -> None:
        """Sets the state of an array: version, shape, dtype, whether it is in Fortran order, content."""
        target, state = self.pop(2)
        if isinstance(target, np.dtype):
            self.push(target)  # its state is byte order and the like, which uint8 does not have
            return
        match state:
            case (_, tuple() as shape, np.dtype(), bool() as fortran, bytes() as content) if target is _Symbol.UNFILLED:
                self.push(np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C"))
            case _:
                raise ValueError("it has an array without content")


INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda _machine, _: None),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1"), _Machine.push),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"), _Machine.push),
    **dict.fromkeys(("BINSTRING", "SHORT_BINSTRING"), lambda machine, text: machine.push(text.encode("latin1"))),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_marked())),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.pop(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.pop(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.pop(3))),
    "APPEND": lambda machine, _: machine.extend(machine.pop(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_marked()),
    "SETITEM": lambda machine, _: machine.update(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.update(machine.pop_marked()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine.remember),
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine.recall),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": lambda machine, _: machine.name_from_stack(),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
}
