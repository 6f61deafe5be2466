"""Follows a pickle step by step without importing, calling or filling anything it names.

Python's own unpickler calls whatever a file names; this one has no way to. The opcodes are read
by ``pickletools``; what they build is plain values, what ``rebuild.py`` knows how to rebuild, and
``InertRecord`` for objects of every other class.
"""

import pickletools
from collections import OrderedDict
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from utils.checkpoint.rebuild import REBUILDERS, hashable, set_array_state
from utils.checkpoint.records import InertName, InertRecord, RefusedError, kind_of, named

Persistent = Callable[[Any], Any]


def run_pickle(file: IO[bytes], persistent: Persistent | None = None) -> Any:
    """Read one pickle from where ``file`` stands; ``file`` then stands behind it.

    Args:
        file: bytes with ``read``, ``readline`` and ``tell``.
        persistent: what a persistent id stands for; without it there may be none.

    Raises:
        RefusedError: the pickle would run something.
        Exception: of many kinds, where it is damaged.
    """
    machine = _Machine(persistent)
    for opcode, argument, _ in pickletools.genops(file):
        step = _STEPS.get(opcode.name)
        if step is None:
            raise RefusedError(f"uses {opcode.name}, which data does without")
        step(machine, argument)
    (value,) = machine.stack
    return value


def call(function: Any, args: Any) -> Any:
    """Return what a known function would; the function itself is not called.

    Raises:
        RefusedError: it is not one of the known.
    """
    if type(function) is not InertName or type(args) is not tuple:
        raise RefusedError(f"wants to call a {kind_of(function)}")
    rebuild = REBUILDERS.get(function.class_name)
    if rebuild is None:
        raise RefusedError(f"wants to call {function.class_name}")
    return rebuild(*args)


def fill(target: Any, state: Any) -> None:
    """Keep the state of a record, and that of an array; attributes of dicts are dropped.

    Raises:
        RefusedError: anything else would be changed.
    """
    if type(target) is InertRecord:
        target.state = state
    elif type(target) is np.ndarray:
        set_array_state(target, state)
    elif type(target) is not OrderedDict or type(state) not in (dict, OrderedDict):
        # An ordered dict's are torch's _metadata, versions of modules that nobody reads here.
        raise RefusedError(f"wants to change a {kind_of(target)} by __setstate__")


class _Machine:
    """The stack and the memo of one pickle."""

    def __init__(self, persistent: Persistent | None) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.persistent = persistent

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self, _: None) -> None:
        self.below.append(self.stack)
        self.stack = []

    def above_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def pop(self, _: None) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.above_mark()

    def make_tuple(self, count: int) -> None:
        items = tuple(self.stack[-count:])
        if len(items) != count:
            raise IndexError("the stack is empty")
        self.stack[-count:] = [items]

    def make_dict(self, _: None) -> None:
        items = self.above_mark()
        self.push({})
        self.set_items(items)

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def memoize(self, _: None) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def append_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is InertRecord and not isinstance(target.items, dict):
            target.items = target.items or []
            target = target.items
        if type(target) is not list:
            raise RefusedError(f"wants to append to a {kind_of(target)}")
        target.extend(items)

    def add_items(self, _: None) -> None:
        items, target = self.above_mark(), self.stack[-1]
        if type(target) is InertRecord:
            self.append_items(items)
        elif type(target) is set:
            target.update(map(hashable, items))
        else:
            raise RefusedError(f"wants to add to a {kind_of(target)}")

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is InertRecord and not isinstance(target.items, list):
            target.items = target.items or {}
            target = target.items
        if type(target) not in (dict, OrderedDict):
            raise RefusedError(f"wants to set items of a {kind_of(target)}")
        target.update(zip(map(hashable, items[::2]), items[1::2], strict=True))

    def set_item(self, _: None) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def name(self, text: str) -> None:
        self.push(named(*text.split(" ", 1)))

    def stack_name(self, _: None) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise ValueError("a name is no text")
        self.push(named(module, name))

    def reduce(self, _: None) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        self.push(call(function, args))

    def instance(self, text: str) -> None:
        args = tuple(self.above_mark())
        self.push(call(named(*text.split(" ", 1)), args))

    def object(self, _: None) -> None:
        function, *args = self.above_mark()
        self.push(call(function, tuple(args)))

    def new(self, _: None) -> None:
        args, cls = self.stack.pop(), self.stack.pop()
        self.push(REBUILDERS["copyreg.__newobj__"](cls, *args))

    def new_with_keywords(self, _: None) -> None:
        keywords, args, cls = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.push(REBUILDERS["copyreg.__newobj_ex__"](cls, args, keywords))

    def build(self, _: None) -> None:
        state = self.stack.pop()
        fill(self.stack[-1], state)

    def persistent_id(self, value: Any) -> None:
        if self.persistent is None:
            raise ValueError("a value kept elsewhere")
        self.push(self.persistent(value))

    def extension(self, code: int) -> None:
        raise RefusedError(f"wants to use entry {code} of copyreg's extension registry")


_PUSHED = (
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 STRING BINSTRING SHORT_BINSTRING UNICODE "
    "SHORT_BINUNICODE BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 "
    "FLOAT BINFLOAT"
).split()
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(_PUSHED, _Machine.push),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda m, _: None),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, index: m.push(m.memo[index])),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), _Machine.extension),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_SET": lambda m, _: m.push(set()),
    "LIST": lambda m, _: m.push(m.above_mark()),
    "TUPLE": lambda m, _: m.push(tuple(m.above_mark())),
    "FROZENSET": lambda m, _: m.push(frozenset(map(hashable, m.above_mark()))),
    "TUPLE1": lambda m, _: m.make_tuple(1),
    "TUPLE2": lambda m, _: m.make_tuple(2),
    "TUPLE3": lambda m, _: m.make_tuple(3),
    "DICT": _Machine.make_dict,
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": lambda m, _: m.above_mark() and None,
    "DUP": lambda m, _: m.push(m.stack[-1]),
    "MEMOIZE": _Machine.memoize,
    "APPEND": lambda m, _: m.append_items([m.stack.pop()]),
    "APPENDS": lambda m, _: m.append_items(m.above_mark()),
    "ADDITEMS": _Machine.add_items,
    "SETITEM": _Machine.set_item,
    "SETITEMS": lambda m, _: m.set_items(m.above_mark()),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.reduce,
    "INST": _Machine.instance,
    "OBJ": _Machine.object,
    "NEWOBJ": _Machine.new,
    "NEWOBJ_EX": _Machine.new_with_keywords,
    "BUILD": _Machine.build,
    "PERSID": _Machine.persistent_id,
    "BINPERSID": lambda m, _: m.persistent_id(m.stack.pop()),
}
