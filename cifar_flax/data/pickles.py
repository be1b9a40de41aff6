"""Pickles of dictionaries, lists, texts, whole numbers and uint8 arrays, read without `pickle`.

A pickle is a program: `pickle` calls what it names and allocates what it claims, and even one that may name nothing
can fill the memory with seven bytes. The machine here knows the instructions that such data is written with, takes
the few names that numpy's arrays need as mere words, calls nothing, and builds no more than the file's length allows.
"""

import pickletools
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

import numpy as np

MOST_INSTRUCTIONS = 250_000  # an official batch has 30,098; each may take some 100 bytes


class _Word(Enum):
    """What a name stands for, and an array that is still to be filled."""

    RECONSTRUCT = auto()
    ARRAY = auto()
    DTYPE = auto()
    ENCODE = auto()
    UNFILLED = auto()


NAMES = {
    "numpy.core.multiarray _reconstruct": _Word.RECONSTRUCT,
    "numpy._core.multiarray _reconstruct": _Word.RECONSTRUCT,  # as numpy 2 writes it
    "numpy ndarray": _Word.ARRAY,
    "numpy dtype": _Word.DTYPE,
    "_codecs encode": _Word.ENCODE,  # as Python 3 writes bytes for Python 2
}


def loads(content: bytes) -> Any:
    """The object that a pickle of protocol 2, 3 or 4 describes; texts of Python 2 are bytes.

    Raises:
        ValueError, IndexError, TypeError, OverflowError: it is damaged, or describes something else.
    """
    machine = _Machine(len(content))
    for count, (instruction, argument, _) in enumerate(pickletools.genops(content)):
        if count >= MOST_INSTRUCTIONS:
            raise ValueError(f"it has more than {MOST_INSTRUCTIONS} instructions")
        if instruction.name not in INSTRUCTIONS:
            raise ValueError(f"it has an instruction {instruction.name}")
        INSTRUCTIONS[instruction.name](machine, argument)
    (made,) = machine.stack
    return made


class _Machine:
    """The stack on which a pickle builds its objects.

    Attributes:
        stack: objects, from the outermost to the one in work.
        marks: the stack's lengths when something of unknown length was begun.
        memo: objects that may come again.
        room: bytes that texts may still be turned into.
    """

    def __init__(self, room: int):
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.room = room

    def push(self, made: Any) -> None:
        self.stack.append(made)

    def pop(self, count: int) -> list[Any]:
        """The last objects, in their order."""
        start = len(self.stack) - count
        if start < 0:
            raise ValueError("it takes what it has not made")
        popped = self.stack[start:]
        del self.stack[start:]
        return popped

    def pop_marked(self) -> list[Any]:
        return self.pop(len(self.stack) - self.marks.pop())

    def remember(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def recall(self, key: int) -> None:
        if key not in self.memo:
            raise ValueError(f"it takes object {key}, which it has not made")
        self.push(self.memo[key])

    def name(self, text: str) -> None:
        if text not in NAMES:
            raise ValueError(f"it asks for {text}")
        self.push(NAMES[text])

    def name_from_stack(self) -> None:
        module, name = self.pop(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("it asks for a name that is no text")
        self.name(f"{module} {name}")

    def extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError("it appends to what is no list")
        self.stack[-1].extend(items)

    def update(self, items: list[Any]) -> None:
        keys, values = items[::2], items[1::2]
        # of tuples within tuples, the hash alone would take for ever
        if not isinstance(self.stack[-1], dict) or not all(isinstance(key, bytes | str) for key in keys):
            raise ValueError("it has a dictionary with keys that are no texts")
        self.stack[-1].update(zip(keys, values, strict=True))

    def reduce(self) -> None:
        """What `pickle` would call, recognised."""
        word, arguments = self.pop(2)
        if not isinstance(word, _Word):
            raise ValueError("it calls what is no name")
        match word, arguments:
            case _Word.RECONSTRUCT, _:
                self.push(_Word.UNFILLED)
            case _Word.DTYPE, (str() | bytes() as code, _, _) if code in ("u1", b"u1"):
                self.push(np.dtype(np.uint8))
            case _Word.ENCODE, (str() as text, str() as encoding) if encoding == "latin1" and len(text) <= self.room:
                self.room -= len(text)  # a text that is recalled again and again would grow without an end
                self.push(text.encode("latin1"))
            case _:
                raise ValueError("it describes an object that is no uint8 array")

    def build(self) -> None:
        """Fills an array with its state: version, shape, dtype, whether in Fortran's order, content."""
        made, state = self.pop(2)
        if isinstance(made, np.dtype):
            self.push(made)  # its state is the byte order and the like, of which uint8 has none
            return
        match state:
            case (_, tuple() as shape, np.dtype(), bool() as fortran, bytes() as content) if made is _Word.UNFILLED:
                self.push(np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C"))
            case _:
                raise ValueError("it has an array without its content")


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
