"""Pickles and zips that no honest program writes, built byte by byte. Each is small on disk or cheap to make.

A pickle here is made of opcodes; see `pickletools` for what each does.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator

CANARY = "mvae_canary_was_run"
"""A name that a hostile pickle would leave in `builtins`, if anything in it ran."""

RUN = f"__import__('builtins').__dict__.__setitem__('{CANARY}', True)"


def text(value: str) -> bytes:
    """Push a string."""
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def name(module: str, attribute: str) -> bytes:
    """Push a global."""
    return b"c" + f"{module}\n{attribute}\n".encode()


def pickle_of(*parts: bytes, protocol: int = 2) -> bytes:
    """A whole pickle around the parts."""
    return b"\x80" + bytes([protocol]) + b"".join(parts) + b"."


def checkpoint(pickle: bytes, members: dict[str, bytes] | None = None, **options: int) -> bytes:
    """A zip like PyTorch's around a pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/version", b"3\n")
        if "archive/data/0" not in (members or {}):
            archive.writestr("archive/data/0", bytes(16))
        for member, content in (members or {}).items():
            archive.writestr(member, content)
    return buffer.getvalue()


def storage(key: str = "0", numel: int = 4, kind: str = "FloatStorage") -> bytes:
    """Push a storage, by a persistent id as PyTorch writes it."""
    return (
        b"(" + text("storage") + name("torch", kind) + text(key) + text("cpu") + b"J" + struct.pack("<i", numel) + b"tQ"
    )


def tensor(
    shape: bytes = b"K\x04\x85", stride: bytes = b"K\x01\x85", offset: bytes = b"K\x00", numel: int = 4
) -> bytes:
    """Push a tensor of float32."""
    hooks = name("collections", "OrderedDict") + b")R"
    call = name("torch._utils", "_rebuild_tensor_v2")
    return call + b"(" + storage(numel=numel) + offset + shape + stride + b"\x89" + hooks + b"tR"


def calls() -> Iterator[tuple[str, bytes]]:
    """Every opcode that can call something, each trying to run `RUN`; and names that reach the system."""
    evaluate, args = name("builtins", "eval"), text(RUN) + b"\x85"
    # a function and its arguments from the stack: what most attacks use
    yield "REDUCE", pickle_of(evaluate, args, b"R")
    yield "REDUCE of exec", pickle_of(name("builtins", "exec"), args, b"R")
    # Python renames these modules as it loads them, so that the name in the file is on no list
    yield "REDUCE with Python 2 names", pickle_of(name("__builtin__", "eval"), args, b"R")
    # protocol 0 names and calls in one instruction, without a global on the stack
    yield "INST", pickle_of(b"(", text(RUN), b"ibuiltins\neval\n")
    # calls what stands under the arguments, back to a mark
    yield "OBJ", pickle_of(b"(", evaluate, text(RUN), b"o")
    # `cls.__new__`, but what stands there may be any function
    yield "NEWOBJ", pickle_of(evaluate, args, b"\x81")
    yield "NEWOBJ_EX", pickle_of(evaluate, args, b"}\x92", protocol=4)
    # the name is put together on the stack: a search through the text of the file misses it
    yield "STACK_GLOBAL", pickle_of(text("builtins"), text("eval"), b"\x93", args, b"R", protocol=4)
    yield (
        "dotted STACK_GLOBAL",
        pickle_of(text("torch"), text("serialization.os.system"), b"\x93", text("true"), b"\x85R", protocol=4),
    )
    # a number that stands for a name in the registry of whoever loads the file
    yield "EXT1", pickle_of(b"\x82\x01", args, b"R")
    yield "EXT2", pickle_of(b"\x83\x01\x01", args, b"R")
    yield "EXT4", pickle_of(b"\x84\x01\x01\x01\x01", args, b"R")
    # `__setstate__` may be given by the file itself, and is then called
    yield "BUILD", pickle_of(evaluate, b")\x81", b"}", text("__setstate__"), evaluate, b"sb", text(RUN), b"b")
    # the second dict of a pair is set by `setattr`, which runs properties
    yield "BUILD of slots", pickle_of(name("argparse", "Namespace"), b")\x81N}", text("x"), evaluate, b"s\x86b")
    # writes into what every other part of the program uses
    yield "BUILD of a global", pickle_of(evaluate, b"}", text("x"), b"K\x01sb")
    # calls the object's `append` or `extend`
    yield "APPEND to an object", pickle_of(name("collections", "deque"), b")R", text(RUN), b"a")
    # calls `__setitem__`: of `os.environ` it changes the environment
    yield "SETITEM of an object", pickle_of(name("os", "environ"), text("PATH"), text(""), b"s")
    yield "SETITEM of an object made", pickle_of(name("os", "_Environ"), b")\x81", text("PATH"), text(""), b"s")
    # the loader's own function is called with whatever the file makes
    yield "BINPERSID", pickle_of(evaluate, args, b"RQ")
    yield "PERSID", pickle_of(b"Pstorage\n")
    # `os` by the name of the module that it is made of
    yield "os.system", pickle_of(name("posix", "system"), text("true"), b"\x85R")
    yield "subprocess", pickle_of(name("subprocess", "check_output"), text("true"), b"\x85R")
    # the second pickle stands in bytes, where the first is all that a scanner reads
    yield "nested pickle", pickle_of(name("pickle", "loads"), b"C", b"\x05\x80\x02K\x01.", b"\x85R", protocol=3)
    # from a harmless module to any other that it has imported
    yield "getattr", pickle_of(name("builtins", "getattr"), name("os", "path"), text("join"), b"\x86R")
    # its state is a function, which is called later
    yield "functools.partial", pickle_of(name("functools", "partial"), evaluate, b"\x85R", b"(", evaluate, b")}Ntb")
    # no name in the file is the one that runs
    yield "a result called", pickle_of(name("builtins", "getattr"), evaluate, text("__call__"), b"\x86R", args, b"R")
    # PyTorch's own way to read a storage in a pickle is `torch.load` without a check
    yield "torch.load", pickle_of(name("torch.storage", "_load_from_bytes"), b"C\x02PK\x85R", protocol=3)
    # where a key is expected, a call
    yield "a key called", pickle_of(b"}", evaluate, args, b"R", b"K\x01s")
    # `exec` under a name of numpy's tests
    yield "numpy", pickle_of(name("numpy.testing._private.utils", "runstring"), text(RUN), b"}\x86R")


def bombs(scale: int = 1) -> Iterator[tuple[str, bytes]]:
    """Pickles that cost far more to read than to write; the large ones divided by `scale`."""
    deep, wide, million = 100_000 // scale, 3_000_000 // scale, 1_000_000 // scale
    yield "lists in lists", pickle_of(b"]" * deep, b"a" * (deep - 1))
    yield "tuples in tuples", pickle_of(b")", b"\x85" * deep)
    yield "dicts in dicts", pickle_of(b"}", (b"N}") * deep, b"s" * deep)
    yield "calls in calls", pickle_of(name("a", "b") * deep, b")", b"R\x85" * (deep - 1), b"R")
    yield "calls of calls", pickle_of(name("a", "b"), b")R" * deep)
    yield "a deep tuple as a key", pickle_of(b"}", b")", b"\x85" * deep, b"K\x01s")
    yield "a dict that doubles itself", pickle_of(b"}q\x00", _doubling(b"}%b(K\x00h%aK\x01h%au", 40))
    yield "a list that doubles itself", pickle_of(b"]q\x00", _doubling(b"]%b(h%ah%ae", 40))
    yield "a tuple that doubles itself", pickle_of(b")q\x00", _doubling(b"h%ah%a\x86%b", 40))
    yield "a doubled tuple as a key", pickle_of(b")q\x00", _doubling(b"h%ah%a\x86%b", 40), b"}h\x28K\x01s")
    yield "a doubled frozenset", pickle_of(b")q\x00", _doubling(b"h%ah%a\x86%b", 40), b"(h\x28\x91", protocol=4)
    yield "long names", pickle_of(_under_long_names(8, 1_000_000, tensor(), million))
    yield "deep names", pickle_of(_under_long_names(480, 1, tensor(), million))
    yield "a list in itself", pickle_of(b"]q\x00h\x00a")
    yield "a dict as its own value", pickle_of(b"}q\x00K\x01h\x00s")
    yield "many sets", pickle_of(b"(", b"\x8f" * wide, b"t", protocol=4)
    yield "many dicts", pickle_of(b"(", b"}" * wide, b"t")
    yield "many lists", pickle_of(b"(", b"]" * wide, b"t")
    yield "many numbers", pickle_of(b"(", b"J\x00\x00\x00\x70" * (15 * million), b"t")
    yield "many floats", pickle_of(b"(", b"G\x00\x00\x00\x00\x00\x00\x00\x01" * (10 * million), b"t")
    yield "many marks", pickle_of(b"(" * wide)
    yield "many nothings", pickle_of(b"N" * (15 * million))
    yield "many objects", pickle_of(name("a", "b"), b"q\x00", b"h\x00)\x81" * wide)
    yield "many strings", pickle_of((b"\x8c\xff" + b"x" * 255) * (3 * million // 2), protocol=4)
    yield "a large string many times", pickle_of((b"X\x00\x00\x0f\x00" + b"x" * 0xF0000) * (600 // scale))
    yield "many memos", pickle_of(b"N", b"".join(b"r" + struct.pack("<I", i) for i in range(wide)))
    yield "a memo far away", pickle_of(b"Nr\xff\xff\xff\xff")
    yield "memos far apart", pickle_of(b"N", b"".join(b"r" + struct.pack("<I", 40_000_000 * i) for i in range(1, 100)))
    yield "many globals", pickle_of(b"".join(name("a", f"b{i}") for i in range(million)))
    yield "one name, many times", pickle_of(name("a" * 400, "b" * 400) * (200_000 // scale))
    yield (
        "colliding integers",
        pickle_of(b"}(", b"".join(_long(i * (2**61 - 1)) + b"N" for i in range(1, 50_000)), b"u"),
    )
    yield (
        "colliding tuples",
        pickle_of(b"}(", b"".join(_long(i * (2**61 - 1)) + b"\x85N" for i in range(1, 50_000)), b"u"),
    )
    path, chosen = chosen_integers(16)
    yield (
        "integers, each found after all before it",
        pickle_of(b"}(", b"".join(_int(i) + b"N" for i in path + chosen), b"u"),
    )
    few = [_int(i) + b"q" + bytes([i]) + b"0" for i in range(200)]
    yield "one dict filled again", pickle_of(*few, b"}", b"(" + b"h\x07N" * (3 * million) + b"u")
    yield (
        "a key of a thousand parts, again",
        pickle_of(b"(" + b"K\x01" * 900 + b"tq\x00", b"}(" + b"h\x00N" * million + b"u"),
    )
    long_list = b"](" + b"J\x00\x00\x00\x70" * (million // 4) + b"e\x85q\x00"
    yield (
        "set() of a long list, again",
        pickle_of(long_list, name("builtins", "set") + b"q\x01", b"h\x01h\x00R0" * million),
    )
    long_text = text("x" * 900_000) + text("latin1") + b"\x86q\x00"
    encode = name("_codecs", "encode") + b"q\x01"
    yield "a long text encoded, again", pickle_of(long_text, encode, b"h\x01h\x00R0" * million)
    yield (
        "torch.Size of a long list, again",
        pickle_of(long_list, name("torch", "Size") + b"q\x01", b"h\x01h\x00R0" * million),
    )
    yield "many pickles", b"\x80\x02N." * (2 * million)
    again = b"0" + b"h\x00h\x01R0" * million
    yield "many pickles in pickles", pickle_of(_loads(pickle_of(b"N" * 1000)), again, protocol=3)
    yield "pickles inside pickles", _nested(60)
    yield (
        "getattr, again",
        pickle_of(
            name("builtins", "getattr") + b"q\x00" + name("a", "b") + text("c") + b"\x86q\x01",
            b"h\x00h\x01R0" * million,
        ),
    )
    yield "frames", b"\x80\x04" + (b"\x95\x01\0\0\0\0\0\0\0N") * (million // 2) + b"."
    yield "a long integer", pickle_of(b"\x8b", struct.pack("<i", 50_000_000), b"\x7f" * 50_000_000)
    yield "an integer in text", pickle_of(b"I" + b"9" * 60_000 + b"\n")
    yield "a string of 2**60 bytes", pickle_of(b"\x8d", struct.pack("<Q", 2**60), b"x", protocol=4)
    yield "bytes of 2**60 bytes", pickle_of(b"\x8e", struct.pack("<Q", 2**60), b"x", protocol=4)
    yield "a bytearray of 2**60 bytes", pickle_of(b"\x96", struct.pack("<Q", 2**60), b"x", protocol=5)
    yield "a frame of 2**60 bytes", pickle_of(b"\x95", struct.pack("<Q", 2**60), b"N", protocol=4)
    yield "a string of 4 GB", pickle_of(b"X\xff\xff\xff\xff", b"x")
    yield "a string of negative length", pickle_of(b"T\xff\xff\xff\xff", b"x")
    yield "a line without end", pickle_of(b"I" + b"1" * 10_000_000)
    yield "a tensor of 2**62 elements", pickle_of(tensor(shape=_long(2**62) + b"\x85"))
    yield "a tensor larger than its storage", pickle_of(tensor(shape=b"K\x05\x85"))
    yield "a tensor before its storage", pickle_of(tensor(offset=b"J\xff\xff\xff\xff"))
    yield "a tensor of negative shape", pickle_of(tensor(shape=b"J\xff\xff\xff\xff\x85"))
    yield (
        "a tensor of a thousand dimensions",
        pickle_of(tensor(b"(" + b"K\x01" * 1000 + b"t", b"(" + b"K\x01" * 1000 + b"t")),
    )
    yield "a storage of 2**31 elements", pickle_of(tensor(numel=2**31 - 1))


def chosen_integers(bits: int) -> tuple[list[int], list[int]]:
    """Integers that take a third of a dict of 2**bits places, and others each of which is found only after all those.

    The places that CPython's dict looks at follow from the key (`Objects/dictobject.c`): 5 × place + 1 + what is left
    of the key. When nothing is left of it, all keys walk one path, and the first integers stand all along that path.
    """
    import numpy as np

    size = 1 << bits
    path = [0]
    while len(path) < size // 3:
        path.append((5 * path[-1] + 1) % size)
    rank = np.full(size, -1, np.int64)
    rank[path] = np.arange(len(path))
    keys = np.concatenate([np.array(path) + turn * size for turn in range(1, 150)])
    left, place, hidden = keys.copy(), keys % size, np.ones(len(keys), bool)
    while left.any():
        hidden &= rank[place] >= 0
        left >>= 5
        place = (5 * place + left + 1) % size
    hidden &= (rank[place] >= 0) & (rank[place] < len(path) // 4)
    return path, keys[hidden][: size // 3 - 10].tolist()


def _int(value: int) -> bytes:
    return b"K" + bytes([value]) if value < 256 else b"J" + struct.pack("<i", value)


def _loads(inner: bytes) -> bytes:
    """Push a call of `pickle.loads`, with its function and its argument in the memo as 0 and 1."""
    return name("pickle", "loads") + b"q\x00" + b"B" + struct.pack("<I", len(inner)) + inner + b"\x85q\x01R"


def _nested(times: int) -> bytes:
    inner = pickle_of(b"N")
    for _ in range(times):
        inner = pickle_of(_loads(inner), protocol=3)
    return inner


def _doubling(pattern: bytes, times: int) -> bytes:
    """The pattern again and again: `%a` reads the memo of the time before, `%b` writes its own."""
    return b"".join(pattern.replace(b"%a", bytes([i])).replace(b"%b", b"q" + bytes([i + 1])) for i in range(times))


def _under_long_names(depth: int, length: int, value: bytes, times: int) -> bytes:
    """A list that holds a value many times, inside dicts in dicts with long keys."""
    key = text("k" * length) + b"q\x00"
    nested = b"}" + key + (b"}h\x00" * depth)
    return nested + b"](" + value + b"q\x01" + b"h\x01" * times + b"e" + b"s" * (depth + 1)


def _long(value: int) -> bytes:
    raw = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw
