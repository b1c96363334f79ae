"""Names with which a pickle can do harm are called dangerous and never offered for an allow-list.

Each was looked at in the sources: what stands behind it says what calling it with chosen arguments does. Most were
first published as ways around a scanner of pickles; none is called here.
"""

from __future__ import annotations

import pytest
from hostile_files import checkpoint, name, pickle_of, text

from mvae.checkpoint import inspect

RUNS = {
    # a command, through a function that starts one for its own purposes
    "os system": "",
    "posix popen": "",
    "nt startfile": "",
    "subprocess Popen": "",
    "_posixsubprocess fork_exec": "what subprocess is made of",
    "pty spawn": "",
    "commands getoutput": "Python 2's name for subprocess",
    "uuid _get_command_stdout": "runs a program of the name it is given",
    "_osx_support _find_build_tool": "hands its argument to a shell",
    "_osx_support _read_output": "hands its argument to a shell",
    "_aix_support _read_cmd_output": "hands its argument to a shell",
    "_pyrepl.pager pipe_pager": "starts a pager of one's choice",
    "imaplib IMAP4_stream": "a connection that is a shell command",
    "pydoc pipepager": "starts a pager of one's choice",
    "test.support.script_helper assert_python_ok": "starts Python with any arguments",
    "distutils.spawn spawn": "",
    "webbrowser open": "",
    "torch.utils.collect_env run": "hands its argument to a shell",
    "torch._inductor.codecache compile_file": "starts a compiler of one's choice",
    "multiprocessing.util spawnv_passfds": "",
    # code in a string
    "builtins eval": "",
    "__builtin__ exec": "Python 2's name",
    "builtins compile": "",
    "code InteractiveInterpreter.runcode": "",
    "cProfile runctx": "",
    "timeit timeit": "",
    "trace Trace.run": "",
    "doctest debug_script": "",
    "idlelib.pyshell ModifiedInterpreter.runcode": "",
    "lib2to3.pgen2.pgen ParserGenerator.make_label": "evaluates a token",
    "numpy.testing._private.utils runstring": "exec by another name",
    "numpy.f2py.crackfortran getlincoef": "evaluates an expression",
    "torch.jit.unsupported_tensor_ops execWrapper": "exec by another name",
    "torch.fx.experimental.symbolic_shapes ShapeEnv.evaluate_guards_expression": "eval by another name",
    "torch._dynamo.guards GuardBuilder.get": "eval by another name",
    "torch.utils.bottleneck.__main__ run_cprofile": "runs a code object",
    "torch.utils.benchmark Timer": "runs the statement it is given",
    "torch.fx.graph_module reduce_graph_module": "runs the source code it is given",
    "pandas.core.computation.eval eval": "",
    "types CodeType": "bytecode",
    "types FunctionType": "bytecode made callable",
    "marshal loads": "bytecode",
    "cloudpickle.cloudpickle _make_function": "bytecode made callable",
    "_interpreters run_string": "",
    # another pickle, module or library
    "pickle loads": "",
    "_pickle Unpickler": "",
    "dill loads": "",
    "joblib load": "",
    "torch load": "",
    "torch.serialization load": "",
    "torch.hub load": "",
    "torch.utils._config_module ConfigModule.load_config": "a pickle in its argument",
    "torch.utils.data.datapipes.utils.decoder basichandlers": "a pickle in its argument",
    "numpy load": "",
    "pandas read_pickle": "",
    "shelve open": "",
    "importlib import_module": "",
    "pkgutil resolve_name": "any attribute of any module",
    "runpy run_path": "",
    "zipimport zipimporter": "",
    "ctypes CDLL": "",
    "numpy.ctypeslib load_library": "",
    "yaml unsafe_load": "",
    # files and connections
    "builtins open": "",
    "_io FileIO": "",
    "io open": "",
    "shutil rmtree": "",
    "pathlib Path.unlink": "a method of a class that is harmless by itself",
    "logging FileHandler": "makes the file it is given",
    "logging.config dictConfig": "calls what it is told to",
    "sqlite3 connect": "",
    "zipfile ZipFile": "",
    "numpy memmap": "",
    "torch save": "",
    "socket create_connection": "",
    "ssl get_server_certificate": "a question to a name server carries data out",
    "urllib.request urlopen": "",
    "httplib HTTPConnection": "Python 2's name",
    "requests.api get": "",
    "smtplib SMTP": "",
    # anything of anything
    "builtins getattr": "",
    "builtins setattr": "",
    "builtins globals": "",
    "operator attrgetter": "",
    "_operator methodcaller": "",
    "_operator itemgetter": "",
    "sys modules": "",
    "gc get_objects": "",
    "inspect currentframe": "",
    # the program or the scanner itself
    "sys exit": "",
    "builtins exit": "",
    "signal alarm": "",
    "atexit register": "",
    "threading Thread": "",
    "picklescan scanner": "",
    "torch.serialization add_safe_globals": "switches the check off for the next file",
}

LEADS = {
    "torch serialization.os.system": "a module in a module",
    "random _os.system": "under another name",
    "enum bltns.eval": "an alias nobody could list",
    "torch _utils._flatten": "through a module, wherever it leads",
    "collections OrderedDict.__init__.__globals__": "from a function to its module",
    "a.b C.__subclasses__": "from a class to all classes",
    "somewhere Popen": "brought in from elsewhere",
    "six.moves builtins": "a module under another name",
    "uuid _popen": "private, and of Python itself",
    "_socket socket": "private, and of Python itself",
}


@pytest.mark.parametrize("where", [*RUNS, *LEADS])
@pytest.mark.parametrize("how", ["called", "made", "named"])
def test_what_can_do_harm_is_called_that(where: str, how: str) -> None:
    module, attribute = where.split(" ")
    then = {"called": text("x") + b"\x85R", "made": text("x") + b"\x85\x81", "named": b""}[how]
    push = name(module, attribute) if "." not in attribute else text(module) + text(attribute) + b"\x93"
    safety = inspect(checkpoint(pickle_of(push, then))).safety
    assert safety.system, where
    assert safety.allow_list is None
    assert not safety.passes


def test_a_gadget_among_harmless_names_is_not_offered_either() -> None:
    parts = name("pathlib", "PurePosixPath") + text("a") + b"\x85R" + name("os", "remove")
    assert inspect(checkpoint(pickle_of(b"(", parts, b"t"))).safety.allow_list is None
