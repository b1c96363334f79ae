"""A pickle read as data. Nothing in it is imported or called, whatever it says.

A pickle is a program for a small stack machine: `]` pushes a list, `c` imports a name, `R` calls it. Python's own
`pickle.Unpickler` runs that program; even with a `find_class` that refuses everything, four bytes can make it
allocate 16 GB for its memo, and a short file can make it hash tuples for hours. So the machine is built again here, a
small function per opcode or family of opcodes, and calls end in `mvae.checkpoint.pickled.rebuild`, which knows what the
harmless ones mean and leaves an inert `Object` for the rest. Time and memory are bounded by `Limits`.

The opcodes are described in CPython's `Lib/pickletools.py`.
"""

from __future__ import annotations

import codecs
import struct
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from typing import Any

from mvae.checkpoint.pickled import rebuild
from mvae.checkpoint.pickled.limits import DEFAULT_LIMITS, KeyGuard, Limits, collector_held_off
from mvae.checkpoint.pickled.reach import COMPUTED, FOLLOWED
from mvae.checkpoint.pickled.values import Blob, Global, NumpyArray, NumpyDtype, Object, ObjectDict, Tensor
from mvae.checkpoint.pickled.walk import check_shape
from mvae.errors import CheckpointError

_CONTAINER = 150  # bytes that an empty dict, its place on the stack and in the checks cost, roughly
_CHUNK = 4096  # opcodes between two looks at what small values have cost; large ones are looked at when they come
_MAX_LINE = 1 << 16
_MAX_FOLLOWED = 10_000  # calls of `getattr` and the like; no program writes more
_MAX_CHAIN = 8  # calls of what a call returned; the first of them has said all there is to say
_COPY: dict[Any, int] = dict.fromkeys((list, tuple, dict, set, frozenset, ObjectDict), 100) | dict.fromkeys(
    (str, bytes, bytearray), 1
)
"""Bytes that each part of a value takes in a copy of it, roughly."""
_NO_FUNCTIONS = frozenset((type(None), bool, int, float, complex, *_COPY)) - {ObjectDict}
_NOTHING = object()


class Trace:
    """What the pickle did on the way, for `mvae.checkpoint.report.safety`.

    Attributes:
        protocol: what it says of itself, or 0.
        opcodes: every opcode byte it used.
        globals: every name it would import, in the order of the file; `Global.uses` says what it does with each.
        named_classes: classes it refers to by a persistent id, as PyTorch's old format does.
        numpy_types: codes of the numpy types whose state it sets, such as `f4`.
        calls: calls that reach further than their name says, with their arguments; see `reach.FOLLOWED`.
        unseen: what in it could not be looked into, one sentence each.
        spent: opcodes and bytes of memory that reading it took, as `Limits` counts them.
    """

    def __init__(self) -> None:
        self.protocol = 0
        self.opcodes: set[int] = set()
        self.globals: list[Global] = []
        self.numpy_types: list[str] = []
        self.named_classes = 0
        self.calls: list[tuple[Global, tuple[Any, ...]]] = []
        self.unseen: list[str] = []
        self.spent = (0, 0)

    def add(self, other: Trace) -> None:
        """Take in what another pickle of the same checkpoint did."""
        self.protocol = max(self.protocol, other.protocol)
        self.opcodes |= other.opcodes
        self.numpy_types += other.numpy_types
        self.named_classes += other.named_classes
        self.calls += other.calls
        self.unseen += other.unseen
        self.spent = (self.spent[0] + other.spent[0], self.spent[1] + other.spent[1])
        known = {name: name for name in self.globals}
        for name in other.globals:
            if name in known:
                known[name].uses |= name.uses
            else:
                self.globals.append(name)


class Unpickler:
    """One pickle, read from `data` at `position`.

    Args:
        data: the bytes; may go on past the pickle's end.
        persistent: what to make of a persistent id, which is how PyTorch refers to a storage.
        position: where the pickle starts.
    """

    __slots__ = (
        "data", "gaps", "guard", "interned", "left", "limits", "marks", "memo", "persistent", "position", "room",
        "stack", "trace", "whole",
    )  # fmt: skip

    def __init__(
        self,
        data: bytes | memoryview,
        persistent: Callable[[Any], Any] | None = None,
        position: int = 0,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.whole = memoryview(data)
        self.data = self.whole  # ends where the frame does that is being read, if there is one
        self.position = position
        self.persistent = persistent or (lambda pid: Object(Global("pickle", "persistent_load"), (pid,)))
        self.limits = limits
        self.room = limits.memory
        self.left = limits.opcodes
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: list[Any] = []
        self.gaps = 0  # places in the memo that were leapt over
        self.interned: dict[tuple[str, str], Global] = {}
        self.guard = KeyGuard()
        self.trace = Trace()

    def load(self) -> Any:
        """Run to the STOP opcode and return the value; `position` is then just past it.

        Raises:
            CheckpointError: not a pickle, damaged, cut off, or past a limit.
        """
        try:
            with collector_held_off():
                value = self._run()
                check_shape(value, self.limits.depth, self.limits.unfolded)
                return value
        except CheckpointError:
            raise
        except (IndexError, struct.error) as error:
            if isinstance(error, struct.error) or self.position >= len(self.data):
                raise self.ends("ends in the middle: the file is cut off") from error
            raise self.error("takes a value that is not there") from error
        except UnicodeError as error:
            raise self.error(f"holds a string that is not valid text ({error})") from error
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise self.error(f"is damaged ({error})") from error

    def _run(self) -> Any:
        data, used = self.data, set[int]()

        def first(u: Unpickler) -> None:
            """Note that an opcode is used, and be out of the way from then on."""
            opcode = u.data[u.position - 1]
            used.add(opcode)
            handlers[opcode] = HANDLERS[opcode]
            handlers[opcode](u)

        handlers: list[Handler] = [first] * 256
        try:
            while self.left > 0:
                start = self.position
                try:
                    for _ in range(_CHUNK):
                        at = self.position
                        try:
                            opcode = data[at]
                        except IndexError:
                            data = self.data = self.whole  # past the end of a frame, or of everything
                            opcode = data[at]
                        self.position = at + 1
                        if opcode == 0x2E:  # STOP
                            return self._stop()
                        handlers[opcode](self)
                    self.left -= _CHUNK
                except _FrameBegins:
                    data = self.data
                    self.left -= min(_CHUNK, self.position - start)
                self.charge(0)
            raise self.error(f"has more than {self.limits.opcodes:,} instructions, the limit set by `Limits.opcodes`")
        finally:
            self.trace.opcodes |= used
            self.trace.spent = (self.limits.opcodes - self.left + len(used), self.limits.memory - self.room)

    def _stop(self) -> Any:
        if self.position < len(self.data) < len(self.whole):
            raise self.error("stops before its frame does: Python would go on elsewhere than where it stops")
        if not self.stack:
            raise self.error("stops before it has made a value")
        return self.stack.pop()

    def ends(self, what: str) -> CheckpointError:
        """The error for an instruction that asks for more bytes than there are."""
        if len(self.data) < len(self.whole):
            what = "has an instruction that reaches past its frame: Python would drop a part of it and run what follows"
        return self.error(what)

    def error(self, what: str) -> CheckpointError:
        return CheckpointError(f"the pickle {what}, at its byte {self.position:,}.")

    # --- what the opcodes share

    def charge(self, size: int) -> None:
        """Take `size` bytes off what is left. The most frequent opcodes do so by `room -=`, a call being dear."""
        self.room -= size
        if self.room < 0:
            raise self.error(f"needs more than {self.limits.memory >> 20} MB, the limit set by `Limits.memory`")

    def take(self, length: int) -> memoryview:
        """The next `length` bytes, as a view."""
        end = self.position + length
        if end > len(self.data):
            left = len(self.data) - self.position
            raise self.ends(f"claims a string of {length:,} bytes where {left:,} are left")
        raw = self.data[self.position : end]
        self.position = end
        return raw

    def number(self, layout: struct.Struct) -> Any:
        value = layout.unpack_from(self.data, self.position)[0]
        self.position += layout.size
        return value

    def line(self, encoding: str = "utf-8") -> str:
        """The text up to the next newline, as the oldest opcodes write their arguments."""
        for length in (256, _MAX_LINE):
            found = bytes(self.data[self.position : self.position + length]).find(b"\n")
            if found >= 0:
                text = str(self.data[self.position : self.position + found], encoding)
                self.position += found + 1
                self.charge(found)
                return text
        raise self.ends("has a line that does not end")

    def pop_mark(self) -> list[Any]:
        """Everything pushed since the last MARK."""
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def global_(self, module: str, name: str) -> Global:
        """The placeholder for an import; the same one each time."""
        found = self.interned.get((module, name))
        if found is None:
            self.charge(_CONTAINER + 500)
            if len(module) + len(name) > 1000:
                raise self.error("imports a name longer than 1,000 letters")
            found = self.interned[module, name] = Global(*_modern(module, name, self.trace.protocol))
            found.written = f"{module}.{name}"
            found.builder = rebuild.BUILDERS.get((found.module, found.name))
            self.trace.globals.append(found)
        return found

    def set_items(self, items: list[Any]) -> None:
        """`target[key] = value` for each pair in a row, where target is on top of the stack."""
        target: Any = self.stack[-1]
        keys = items[::2]
        if not isinstance(target, dict):
            _use(target, "filled")
            if not isinstance(target, Object):
                raise self.error(f"sets an item of a {type(target).__name__}")
            target.entries = {} if target.entries is None else target.entries
            target = target.entries
        elif type(target) is ObjectDict:
            _use(target, "filled")
        self.charge(100 * len(keys))
        self.guard.fill(target, keys, items[1::2])

    def extend(self, items: list[Any]) -> None:
        """Append items to the list, or whatever stands for one, on top of the stack."""
        target: Any = self.stack[-1]
        if isinstance(target, Object):
            _use(target, "filled")
            target.items = [] if target.items is None else target.items
            target = target.items
        elif type(target) is not list:
            raise self.error(f"appends to a {type(target).__name__}")
        target.extend(items)


class _FrameBegins(Exception):  # noqa: N818
    """Says to the loop that the bytes to read from are others now."""


def _use(target: Any, how: str) -> None:
    """Remember in what way a global, or what came of one, is used."""
    if type(target) is Global:
        target.uses.add("changed" if how in ("built", "filled") else how)
        return
    for _ in range(_MAX_CHAIN):
        if not isinstance(target, (Object, ObjectDict, NumpyArray)):
            break
        target = target.cls
        how = "result called" if how in ("called", "made") else how
    if type(target) is Global:
        target.uses.add(how)


def _call(u: Unpickler, function: Any, args: Any) -> Any:
    """What `function(*args)` stands for, after a look at what it costs and where it leads."""
    u.room -= _CONTAINER
    if type(function) is not Global or type(args) is not tuple:
        if type(function) in _NO_FUNCTIONS and type(args) is tuple:
            raise u.error(f"calls a {type(function).__name__}, where Python and PyTorch stop")
        _use(function, "called")
        return rebuild.call(function, args)
    function.uses.add("called")
    if function.builder is None:
        _follow(u, function, args)
    elif args and function.builder not in rebuild.COPYING_NOTHING:
        for value in args:
            each = _COPY.get(type(value))
            if each:
                u.room -= each * len(value)
        u.charge(8 * len(args))
        made = rebuild.filled(function, args[0]) if len(args) == 1 else None
        if made is not None:
            u.guard.fill(*made)
            return frozenset(made[1]) if function.name == "frozenset" else made[0]
    return rebuild.call(function, args)


def _follow(u: Unpickler, function: Global, args: tuple[Any, ...]) -> None:
    """Remember a call that reaches further than its name says."""
    if str(function) in FOLLOWED:
        if len(u.trace.calls) < _MAX_FOLLOWED:
            u.trace.calls.append((function, args))
        else:
            function.uses.add("not followed")


def _modern(module: str, name: str, protocol: int) -> tuple[str, str]:
    """The Python 3 name of what Python 2 called otherwise; pickles of protocol 0 to 2 use the old names."""
    if protocol >= 3:
        return module, name
    if (module, name) in NAME_MAPPING:
        return NAME_MAPPING[module, name]
    return IMPORT_MAPPING.get(module, module), name


# --- the opcodes: a function each; one for a family whose members differ in a number or a type

Handler = Callable[[Unpickler], object]
HANDLERS: list[Handler] = []


def _unknown(u: Unpickler) -> None:
    opcode = u.data[u.position - 1]
    raise u.error(f"has byte {opcode:#04x} where an instruction should be: it is damaged, or not a pickle")


HANDLERS.extend([_unknown] * 256)


def _on(letters: bytes) -> Callable[[Handler], Handler]:
    """Register the handler of these opcodes."""

    def register(handler: Handler) -> Handler:
        for opcode in letters:
            HANDLERS[opcode] = handler
        return handler

    return register


_U1, _U2, _I4, _U4, _U8, _F8 = (struct.Struct(layout) for layout in ("<B", "<H", "<i", "<I", "<Q", ">d"))


@_on(b"\x80")
def _proto(u: Unpickler) -> None:
    u.trace.protocol = u.number(_U1)
    if u.trace.protocol > 5:
        raise u.error(f"is of protocol {u.trace.protocol}; 0 to 5 exist")


@_on(b"\x95")
def _frame(u: Unpickler) -> None:
    """So many bytes that Python reads at once. An instruction that does not fit in is read differently by each."""
    end = u.number(_U8) + u.position
    if end > len(u.whole):
        raise u.error(f"claims a frame of {end - u.position:,} bytes where {len(u.whole) - u.position:,} are left")
    if len(u.data) < len(u.whole):
        raise u.error("begins a frame inside another one")
    u.data = u.whole[:end]
    raise _FrameBegins


# constants and numbers


def _constant(letter: bytes, value: Any) -> None:
    @_on(letter)
    def push(u: Unpickler) -> None:
        u.stack.append(value)


def _number(letter: bytes, layout: struct.Struct) -> None:
    unpack_from, size = layout.unpack_from, layout.size

    @_on(letter)
    def push(u: Unpickler) -> None:
        u.stack.append(unpack_from(u.data, u.position)[0])
        u.position += size


def _line(letter: bytes, value: Callable[[str], Any]) -> None:
    @_on(letter)
    def push(u: Unpickler) -> None:
        u.stack.append(value(u.line("latin-1")))


for _letter, _value in ((b"N", None), (b"\x88", True), (b"\x89", False), (b")", ())):
    _constant(_letter, _value)
for _letter, _layout in ((b"M", _U2), (b"J", _I4), (b"G", _F8)):
    _number(_letter, _layout)
_line(b"I", lambda text: {"00": False, "01": True}[text] if text in ("00", "01") else int(text, 0))
_line(b"L", lambda text: int(text.removesuffix("L"), 0))
_line(b"F", float)
_line(b"V", lambda text: text.encode("latin-1").decode("raw-unicode-escape"))


@_on(b"K")
def _binint1(u: Unpickler) -> None:
    u.stack.append(u.data[u.position])
    u.position += 1


@_on(b"\x8b")
def _long4(u: Unpickler) -> None:
    length = u.number(_I4)
    if not 0 <= length <= _MAX_LINE:
        raise u.error(f"has an integer of {length:,} bytes")
    u.charge(length)
    u.stack.append(int.from_bytes(u.take(length), "little", signed=True))


# text and bytes


def _utf8(raw: memoryview) -> str:
    return str(raw, "utf-8", "surrogatepass")


def _python2(raw: memoryview | bytes) -> str | bytes:
    """A Python 2 `str`: text if it is ASCII, as PyTorch and `pickle` read it, else its bytes."""
    found = bytes(raw)
    return found.decode("ascii") if found.isascii() else found


def _string(letter: bytes, layout: struct.Struct, made: Callable[[memoryview], Any]) -> None:
    """Text or bytes after their length; what is long stays in the file."""
    unpack_from, size, encoding = layout.unpack_from, layout.size, "utf-8" if made is _utf8 else None

    @_on(letter)
    def push(u: Unpickler) -> None:
        length = unpack_from(u.data, u.position)[0]
        u.position += size
        raw = u.data[u.position : u.position + length]
        if len(raw) < length:
            u.take(length)  # says so
        u.position += length
        is_long = length > u.limits.blob
        u.room -= _CONTAINER if is_long else length + 50
        if u.room < 0:
            u.charge(0)
        u.stack.append(Blob(raw, encoding) if is_long else made(raw))


for _letter, _layout, _made in (
    (b"\x8c", _U1, _utf8), (b"X", _U4, _utf8), (b"\x8d", _U8, _utf8),
    (b"C", _U1, bytes), (b"B", _U4, bytes), (b"\x8e", _U8, bytes), (b"\x96", _U8, bytearray),
    (b"U", _U1, _python2), (b"T", _U4, _python2),
):  # fmt: skip
    _string(_letter, _layout, _made)


@_on(b"S")
def _quoted(u: Unpickler) -> None:
    text = u.line("latin-1")
    if len(text) < 2 or text[0] != text[-1] or text[0] not in "'\"":
        raise u.error("has a string without its quotes")
    u.stack.append(_python2(codecs.escape_decode(text[1:-1].encode("latin-1"))[0]))


@_on(b"\x97\x98")
def _buffer(u: Unpickler) -> None:
    if u.data[u.position - 1] == 0x97:
        raise u.error("refers to a buffer outside the file, which PyTorch does not write")


# the stack, and containers


def _empty(letter: bytes, kind: type, cost: int) -> None:
    @_on(letter)
    def push(u: Unpickler) -> None:
        u.charge(cost)
        u.stack.append(kind())


_empty(b"]", list, _CONTAINER)
_empty(b"}", dict, _CONTAINER)
_empty(b"\x8f", set, 2 * _CONTAINER)


@_on(b"(")
def _mark(u: Unpickler) -> None:
    u.room -= _CONTAINER
    u.marks.append(u.stack)
    u.stack = []


@_on(b"0")
def _pop(u: Unpickler) -> None:
    if u.stack:
        u.stack.pop()
    else:
        u.pop_mark()


@_on(b"t")
def _tuple(u: Unpickler) -> None:
    items = tuple(u.stack)
    u.room -= 60 + 8 * len(items)
    u.stack = u.marks.pop()
    u.stack.append(items)


@_on(b"\x85")
def _tuple1(u: Unpickler) -> None:
    u.room -= 68
    u.stack[-1] = (u.stack[-1],)


@_on(b"\x86")
def _tuple2(u: Unpickler) -> None:
    u.room -= 76
    last = u.stack.pop()
    u.stack[-1] = (u.stack[-1], last)


@_on(b"\x87")
def _tuple3(u: Unpickler) -> None:
    u.room -= 84
    last, middle = u.stack.pop(), u.stack.pop()
    u.stack[-1] = (u.stack[-1], middle, last)


@_on(b"l")
def _list(u: Unpickler) -> None:
    u.charge(_CONTAINER)
    items = u.pop_mark()
    u.stack.append(items)


@_on(b"d")
def _dict(u: Unpickler) -> None:
    items = u.pop_mark()
    u.charge(_CONTAINER)
    u.stack.append({})
    u.set_items(items)


@_on(b"\x91")
def _frozenset(u: Unpickler) -> None:
    items = u.pop_mark()
    u.charge(_CONTAINER + 100 * len(items))
    u.guard.fill(set(), items)  # as costly as what follows
    u.stack.append(frozenset(items))


@_on(b"s")
def _setitem(u: Unpickler) -> None:
    value, key = u.stack.pop(), u.stack.pop()
    u.set_items([key, value])


@_on(b"\x90")
def _additems(u: Unpickler) -> None:
    items = u.pop_mark()
    target = u.stack[-1]
    if isinstance(target, Object):
        u.extend(items)
    elif type(target) is set:
        u.charge(100 * len(items))
        u.guard.fill(target, items)
    else:
        raise u.error(f"adds to a {type(target).__name__}")


# the memo, by which a pickle refers to what it has already made


def _remember(u: Unpickler, index: int) -> None:
    memo = u.memo
    if index == len(memo):
        memo.append(u.stack[-1])
    elif index < 0:
        raise u.error(f"numbers a value {index}")
    elif index < len(memo):
        u.gaps -= memo[index] is _NOTHING
        memo[index] = u.stack[-1]
    else:  # Python numbers them without gaps; one that leaps ahead may not cost more than it brings
        u.charge(32 * (index - len(memo) + 1))
        u.gaps += index - len(memo)
        memo.extend([_NOTHING] * (index - len(memo)))
        memo.append(u.stack[-1])


def _recall(u: Unpickler, index: int) -> None:
    value = u.memo[index] if 0 <= index < len(u.memo) else _NOTHING
    if value is _NOTHING:
        raise u.error(f"refers to value {index}, which it has not made")
    u.stack.append(value)


@_on(b"r")
def _long_binput(u: Unpickler) -> None:
    index = _U4.unpack_from(u.data, u.position)[0]
    u.position += 4
    if index == len(u.memo):
        u.memo.append(u.stack[-1])
    else:
        _remember(u, index)


@_on(b"h")
def _binget(u: Unpickler) -> None:
    value = u.memo[u.data[u.position]]
    u.position += 1
    if value is _NOTHING:
        raise u.error("refers to a value it has not made")
    u.stack.append(value)


# the dangerous ones: names, calls, objects, state. All of them end in a placeholder.


@_on(b"\x93")
def _stack_global(u: Unpickler) -> None:
    name, module = u.stack.pop(), u.stack.pop()
    if type(name) is str and type(module) is str:
        u.stack.append(u.global_(module, name))
    elif {type(name), type(module)} <= {str, Object, Global}:  # text that a call makes, when the file is loaded
        u.stack.append(u.global_(COMPUTED, f"name_at_{u.position}"))
    else:
        raise u.error("imports something that is not a name")


def _extension(letter: bytes, layout: struct.Struct) -> None:
    """A name by its number in `copyreg`'s registry, which only the program that wrote the file knows."""

    @_on(letter)
    def push(u: Unpickler) -> None:
        u.stack.append(u.global_("copyreg", f"extension_{u.number(layout)}"))


for _letter, _layout in ((b"\x82", _U1), (b"\x83", _U2), (b"\x84", _U4)):
    _extension(_letter, _layout)


@_on(b"R")
def _reduce(u: Unpickler) -> None:
    args = u.stack.pop()
    u.stack[-1] = _call(u, u.stack[-1], args)


@_on(b"\x81\x92")
def _newobj(u: Unpickler) -> None:
    """`cls.__new__(cls, *args)`; with keywords too, if it is the longer opcode."""
    kwargs = u.stack.pop() if u.data[u.position - 1] == 0x92 else None
    args, cls = u.stack.pop(), u.stack.pop()
    _use(cls, "made")
    u.charge(_CONTAINER)
    u.stack.append(rebuild.new(cls, args, kwargs))


@_on(b"o")
def _obj(u: Unpickler) -> None:
    cls, *args = u.pop_mark()
    u.charge(8 * len(args))
    u.stack.append(_call(u, cls, tuple(args)))


@_on(b"i")
def _inst(u: Unpickler) -> None:
    module = u.line()
    cls = u.global_(module, u.line())
    args = tuple(u.pop_mark())
    u.charge(8 * len(args))
    u.stack.append(_call(u, cls, args))


@_on(b"b")
def _build(u: Unpickler) -> None:
    state, target = u.stack.pop(), u.stack[-1]
    _use(target, "built")
    if isinstance(target, NumpyDtype):
        u.trace.numpy_types.append(target.code)
    if isinstance(target, (NumpyArray, NumpyDtype)) and rebuild.set_numpy_state(target, state):
        return
    if isinstance(target, (Object, ObjectDict)):
        target.state = state
    elif isinstance(target, Tensor):
        target.attributes = state
    else:
        u.charge(_CONTAINER)
        u.stack[-1] = Object(target)
        u.stack[-1].state = state


@_on(b"Q")
def _binpersid(u: Unpickler) -> None:
    u.room -= _CONTAINER
    u.stack[-1] = u.persistent(u.stack[-1])


@_on(b"P")
def _persid(u: Unpickler) -> None:
    u.charge(_CONTAINER)
    u.stack.append(u.persistent(u.line()))


# those that are said in one expression

_SHORT: dict[bytes, Handler] = {
    b"1": Unpickler.pop_mark,  # POP_MARK
    b"2": lambda u: u.stack.append(u.stack[-1]),  # DUP
    b"\x8a": lambda u: u.stack.append(int.from_bytes(u.take(u.number(_U1)), "little", signed=True)),  # LONG1
    b"a": lambda u: u.extend([u.stack.pop()]),  # APPEND
    b"e": lambda u: u.extend(u.pop_mark()),  # APPENDS
    b"u": lambda u: u.set_items(u.pop_mark()),  # SETITEMS
    b"q": lambda u: _remember(u, u.number(_U1)),  # BINPUT
    b"p": lambda u: _remember(u, int(u.line())),  # PUT
    b"\x94": lambda u: _remember(u, len(u.memo) - u.gaps),  # MEMOIZE
    b"j": lambda u: _recall(u, u.number(_U4)),  # LONG_BINGET
    b"g": lambda u: _recall(u, int(u.line())),  # GET
    b"c": lambda u: u.stack.append(u.global_(u.line(), u.line())),  # GLOBAL
}
for _letter, _handler in _SHORT.items():
    _on(_letter)(_handler)
