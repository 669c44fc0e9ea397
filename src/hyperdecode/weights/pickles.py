"""Read pickles without running them: what a pickle would import or call becomes an inert note of its name.

A pickle is a program for a small stack machine. Python's own machine imports what the program names and calls it;
this one has no way to do either. `read_pickle` walks over the opcodes (split by the standard library's `pickletools`,
which executes nothing) and builds plain values; a global becomes a `Symbol`, a call a `Call`, a persistent id a
`PersistentId`. A name that is not among the few that the reader of a format expects ends the reading at once.
"""

from __future__ import annotations

import io
import pickletools
import warnings
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from hyperdecode.errors import WeightFileError
from hyperdecode.weights.limits import shown

__all__ = ["Call", "PersistentId", "Symbol", "read_pickle"]

MAX_OPCODES = 1_000_000
MAX_MEMO_INDEX = 1_000_000
MAX_MARKS = 1_000
MAX_INTEGER = 2**128
MAX_INTEGER_KEY = 2**61 - 1
NEWEST_PROTOCOL = 5


@dataclass(frozen=True)
class Symbol:
    """The name of a global: a class or function that is never looked up."""

    module: str
    name: str

    @property
    def path(self) -> str:
        """Module and name with a dot between them."""
        return f"{self.module}.{self.name}"


@dataclass(eq=False, repr=False)
class Call:
    """What a pickle would make by a call, as a note.

    Attributes
    ----------
    function : Symbol
        The class or function.
    args : tuple
    kwargs : dict
    state : object
        What it would hand to ``__setstate__`` afterwards.
    items : list
        What it would append.
    pairs : list of (key, value)
        What it would set by key.
    """

    function: Symbol
    args: tuple[Any, ...] = ()
    kwargs: dict[Any, Any] = field(default_factory=dict)
    state: Any = None
    items: list[Any] = field(default_factory=list)
    pairs: list[tuple[Any, Any]] = field(default_factory=list)


@dataclass(frozen=True, eq=False, repr=False)
class PersistentId:
    """A reference to something that lies outside of the pickle."""

    value: Any


def read_pickle(
    stream: io.BytesIO, allowed: Collection[str], source: str, kind: str, persistent: list[PersistentId] | None = None
) -> Any:
    """Read one pickle, protocols 0 to 5, from where `stream` stands to its STOP.

    Parameters
    ----------
    stream : io.BytesIO
        Left behind the STOP, because some formats put several pickles in a row.
    allowed : collection of str
        The globals that may be named, ``"module.name"``. They become a `Symbol`, nothing more.
    source : str
        The file, for messages.
    kind : str
        What the file claims to be, for messages: ``"PyTorch weight file"``.
    persistent : list, optional
        Filled with the persistent ids in the order of the file.

    Returns
    -------
    object
        None, bool, int, float, str, bytes, list, tuple, dict, set, frozenset, `Symbol`, `Call` or `PersistentId`.

    Raises
    ------
    WeightFileError
        For a global that is not allowed, and for anything that is no well-formed pickle of ordinary size.
    """
    machine = _Machine(allowed, source, kind, persistent)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of odd escapes in the texts of protocol 0
            for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
                if count >= MAX_OPCODES:
                    machine.refuse(f"more than {MAX_OPCODES} steps")
                machine.step(opcode.name, argument)
    except WeightFileError:
        raise
    except ValueError as error:
        machine.refuse(f"not readable as a pickle ({shown(str(error))}): it is cut off or damaged")
    return machine.result()


class _Machine:
    """The stack, the marks on it, and the memo."""

    def __init__(self, allowed: Collection[str], source: str, kind: str, persistent: list[PersistentId] | None) -> None:
        self.allowed = {tuple(path.rpartition(".")[::2]) for path in allowed}
        self.source, self.kind = source, kind
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.persistent = [] if persistent is None else persistent

    def refuse(self, reason: str) -> NoReturn:
        raise WeightFileError(f"{self.source}: {reason}; refused, nothing in it was run")

    def step(self, name: str, argument: Any) -> None:
        if name in PUSHES:
            self.push_value(argument)
        elif name in OPERATIONS:
            OPERATIONS[name](self, argument)
        else:
            self.refuse(f"the pickle uses {name}, which no {self.kind} needs")

    def result(self) -> Any:
        if len(self.stack) != 1 or self.marks:
            self.refuse("the pickle ends with other than one value")
        return self.stack[0]

    # The stack

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            self.refuse("the pickle takes from an empty stack")
        return self.stack.pop()

    def top(self) -> Any:
        value = self.pop()
        self.stack.append(value)
        return value

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            self.refuse("the pickle takes from an empty stack")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def push_value(self, value: Any) -> None:
        if isinstance(value, int) and abs(value) >= MAX_INTEGER:
            self.refuse("the pickle holds an integer of absurd size")
        self.stack.append(value)

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        if len(self.marks) >= MAX_MARKS:
            self.refuse(f"the pickle is nested deeper than {MAX_MARKS}")
        self.marks.append(len(self.stack))

    # The memo

    def put(self, index: int) -> None:
        if not 0 <= index < MAX_MEMO_INDEX:
            self.refuse(f"the pickle memorises under {shown(index)}, which no pickle of this size needs")
        self.memo[index] = self.top()

    def get(self, index: int) -> None:
        if index not in self.memo:
            self.refuse("the pickle recalls what it never memorised")
        self.stack.append(self.memo[index])

    # Names and calls, inert

    def symbol(self, module: Any, name: Any) -> Symbol:
        if not (isinstance(module, str) and isinstance(name, str)):
            self.refuse("the pickle names a global by something that is no text")
        if (module, name) not in self.allowed:
            self.refuse(f"the pickle names {shown(f'{module}.{name}')}, which no {self.kind} needs")
        return Symbol(module, name)

    def called(self, function: Any, args: Any, kwargs: Any = None) -> None:
        if not isinstance(function, Symbol):
            self.refuse("the pickle calls something that is no global")
        if not isinstance(args, tuple) or not isinstance(kwargs, dict | None):
            self.refuse("the pickle calls with other than a tuple of arguments")
        self.stack.append(Call(function, args, kwargs or {}))

    def refer(self, value: Any) -> None:
        self.persistent.append(PersistentId(value))
        self.stack.append(self.persistent[-1])

    # Filling containers

    def append(self, values: Iterable[Any]) -> None:
        target = self.top()
        if isinstance(target, list):
            target.extend(values)
        elif isinstance(target, Call):
            target.items.extend(values)
        else:
            self.refuse("the pickle appends to something that is no list")

    def add(self, values: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, set):
            self.refuse("the pickle adds to something that is no set")
        target.update(self.keys(values))

    def set_pairs(self, values: list[Any]) -> None:
        target = self.top()
        pairs = self.pairs(values)
        if isinstance(target, dict):
            target.update(pairs)
        elif isinstance(target, Call):
            target.pairs.extend(pairs)
        else:
            self.refuse("the pickle sets keys of something that is no dict")

    def pairs(self, values: list[Any]) -> list[tuple[Any, Any]]:
        if len(values) % 2:
            self.refuse("the pickle has a key without a value")
        return list(zip(self.keys(values[::2]), values[1::2], strict=True))

    def keys(self, values: list[Any]) -> list[Any]:
        for value in values:
            # Only what hashes in one step (a tuple of tuples of ... recurses in C) and cannot be made to collide.
            if not isinstance(value, str | bytes | int | float | None):
                self.refuse("the pickle has a key or a set's member that is neither text nor number")
            if isinstance(value, int) and abs(value) >= MAX_INTEGER_KEY:
                self.refuse("the pickle has an integer of absurd size for a key")
        return values

    def build(self) -> None:
        state, target = self.pop(), self.top()
        if not isinstance(target, Call):
            self.refuse("the pickle gives a state to something that has none")
        target.state = state


def _protocol(machine: _Machine, version: int) -> None:
    if version > NEWEST_PROTOCOL:
        machine.refuse(f"pickle protocol {version} is unknown")


def _global(machine: _Machine, argument: str) -> None:
    module, _, name = argument.partition(" ")
    machine.push(machine.symbol(module, name))


def _stack_global(machine: _Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.push(machine.symbol(module, name))


def _inst(machine: _Machine, argument: str) -> None:
    args = tuple(machine.pop_to_mark())
    _global(machine, argument)
    machine.called(machine.pop(), args)


def _obj(machine: _Machine) -> None:
    values = machine.pop_to_mark()
    machine.called(values[0] if values else None, tuple(values[1:]))


def _reduce(machine: _Machine) -> None:
    args, function = machine.pop(), machine.pop()
    machine.called(function, args)


def _newobj_ex(machine: _Machine) -> None:
    kwargs, args, function = machine.pop(), machine.pop(), machine.pop()
    machine.called(function, args, kwargs)


def _tuple(size: int) -> Callable[[_Machine, Any], object]:
    return lambda machine, _: machine.push(tuple(machine.pop() for _ in range(size))[::-1])


def _set_item(machine: _Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_pairs([key, value])


PUSHES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
"""Opcodes that push their own argument."""

OPERATIONS: dict[str, Callable[[_Machine, Any], object]] = {
    "PROTO": _protocol,
    "FRAME": lambda machine, _: None,
    "STOP": lambda machine, _: None,
    "MARK": lambda machine, _: machine.mark(),
    "POP": lambda machine, _: machine.marks.pop() if machine.marks[-1:] == [len(machine.stack)] else machine.pop(),
    "POP_MARK": lambda machine, _: machine.pop_to_mark(),
    "DUP": lambda machine, _: machine.push(machine.top()),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_SET": lambda machine, _: machine.push(set()),
    "LIST": lambda machine, _: machine.push(machine.pop_to_mark()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "DICT": lambda machine, _: machine.push(dict(machine.pairs(machine.pop_to_mark()))),
    "FROZENSET": lambda machine, _: machine.push(frozenset(machine.keys(machine.pop_to_mark()))),
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.pop_to_mark()),
    "ADDITEMS": lambda machine, _: machine.add(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: _set_item(machine),
    "SETITEMS": lambda machine, _: machine.set_pairs(machine.pop_to_mark()),
    "PUT": lambda machine, index: machine.put(index),
    "BINPUT": lambda machine, index: machine.put(index),
    "LONG_BINPUT": lambda machine, index: machine.put(index),
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "GET": lambda machine, index: machine.get(index),
    "BINGET": lambda machine, index: machine.get(index),
    "LONG_BINGET": lambda machine, index: machine.get(index),
    "GLOBAL": _global,
    "STACK_GLOBAL": lambda machine, _: _stack_global(machine),
    "INST": _inst,
    "OBJ": lambda machine, _: _obj(machine),
    "REDUCE": lambda machine, _: _reduce(machine),
    "NEWOBJ": lambda machine, _: _reduce(machine),
    "NEWOBJ_EX": lambda machine, _: _newobj_ex(machine),
    "BUILD": lambda machine, _: machine.build(),
    "PERSID": lambda machine, argument: machine.refer(argument),
    "BINPERSID": lambda machine, _: machine.refer(machine.pop()),
}
"""What each opcode does to the stack. EXT1-EXT4 (registered globals) and out-of-band buffers are left out."""
