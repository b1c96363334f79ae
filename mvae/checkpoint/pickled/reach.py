"""Which names give a pickle a way to run commands or code, or to touch files and sockets; and why.

One table, a reason a group. A name stands for itself and for everything below it: `os` covers `os.system` and
`os.path.join`. That a name is *not* here does not make it harmless: `torch.load(weights_only=True)` takes only what is
on its own short list, and so does the verdict. What is here is named in red and never offered for an allow-list.

The names were found in Python's and PyTorch's own sources, and in what picklescan, fickling and modelscan warn of.
"""

from __future__ import annotations

import re
import sys

from mvae.checkpoint.pickled.values import Global


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_GROUPS: dict[str, str] = {
    "runs commands or programs": """
        os posix nt subprocess _posixsubprocess _winapi pty commands popen2 platform multiprocessing _multiprocessing
        concurrent.futures webbrowser antigravity pexpect ptyprocess sh plumbum paramiko fabric invoke psutil.Popen
        _osx_support _aix_support _pyrepl pipes distutils setuptools pip ensurepip venv _bootsubprocess
        imaplib.IMAP4_stream ctypes.util uuid._get_command_stdout uuid._popen cgitb
        torch.utils.collect_env torch.utils.cpp_extension torch.utils._cpp_extension_versioner torch.multiprocessing
        torch.distributed.run torch.distributed.launch torch.distributed.launcher torch.distributed.elastic
        numpy.distutils numpy.f2py numpy.testing torch.testing IPython.utils
        """,
    "runs Python code that stands in the file": """
        builtins.eval builtins.exec builtins.execfile builtins.compile builtins.apply builtins.breakpoint builtins.input
        builtins.map builtins.filter builtins.reduce functools.reduce functools.partialmethod itertools.starmap
        builtins.help builtins.property builtins.__build_class__
        code codeop bdb pdb cProfile profile _lsprof timeit trace doctest idlelib lib2to3 test unittest runpy
        types.CodeType types.FunctionType types.LambdaType types.MethodType types.ModuleType types.CellType
        types.DynamicClassAttribute types.coroutine types.new_class types.GeneratorType types.resolve_bases
        marshal _interpreters _xxsubinterpreters _xxinterpchannels asyncio threading _thread _threading_local sched
        concurrent atexit signal _signal faulthandler sys gc inspect weakref.finalize contextlib.ExitStack
        collections.namedtuple dataclasses.make_dataclass
        dataclasses._create_fn typing.ForwardRef typing.get_type_hints annotationlib string.Formatter
        cloudpickle dill jsonpickle torch.fx.graph_module torch.fx.experimental torch.fx._lazy_graph_module
        torch.jit torch.compile torch.compiler torch._dynamo torch._inductor torch._functorch torch._export
        torch.utils.bottleneck torch.utils.benchmark torch.utils.model_zoo torch.utils.data.datapipes
        torch.utils._config_module torch.utils._triton torch.ops torch._ops torch.classes torch._classes torch.library
        torch.distributed.rpc torch.distributed._tools pandas.eval pandas.core.computation
        numexpr sympy.sympify sympy.parsing hydra.utils hydra._internal
        """,
    "loads another program, library or pickle": """
        pickle _pickle cPickle pickletools shelve copyreg.add_extension copyreg.pickle importlib imp _imp
        _frozen_importlib _frozen_importlib_external pkgutil zipimport zipapp site sitecustomize modulefinder
        builtins.__import__ builtins.__loader__ builtins.__spec__ ctypes _ctypes cffi _cffi_backend py_compile
        compileall yaml ruamel.yaml joblib torch.load torch.hub torch.package torch.export torch.serialization
        torch.storage._load_from_bytes torch.from_file torch._utils_internal torch._C.PyTorchFileReader
        torch._C.import_ir_module torch._C._import_ir_module
        torch.distributed.checkpoint.state_dict_loader torch.distributed.checkpoint.format_utils
        torch.utils.tensorboard torch.utils.model_dump numpy.load numpy.ctypeslib numpy.lib.npyio
        numpy.lib._npyio_impl numpy.lib.format numpy.lib._format_impl numpy.loads pandas.read_pickle pandas.io.pickle
        pandas.compat.pickle_compat        lightning.fabric.utilities.cloud_io lightning_fabric.utilities.cloud_io
        """,
    "opens, writes or deletes files": """
        builtins.open builtins.file io _io codecs.open _pyio shutil tempfile glob fileinput filecmp linecache difflib
        dircache mmap zipfile tarfile gzip bz2 lzma zlib.decompressobj _bz2 _lzma sqlite3 _sqlite3 dbm _dbm _gdbm
        logging.FileHandler logging.handlers logging.config logging.basicConfig logging.StreamHandler logging.shutdown
        argparse.FileType tokenize.open wave aifc sunau mailbox netrc configparser.ConfigParser plistlib winreg _winreg
        crypt fcntl _tkinter tkinter turtle ntpath posixpath genericpath macpath nturl2path
        numpy.fromfile numpy.memmap numpy.save numpy.savez numpy.savetxt numpy.loadtxt numpy.genfromtxt
        numpy.DataSource numpy.lib._datasource numpy.compat torch.save torch.distributed.checkpoint.filesystem
        torch.distributed.checkpoint.state_dict_saver torch.distributed.checkpoint._fsspec_filesystem
        torch._C.PyTorchFileWriter fsspec smart_open h5py.File
        """,
    "opens a connection": """
        socket _socket ssl _ssl select selectors asyncore asynchat socketserver http httplib urllib.request
        urllib.robotparser urllib2 urllib3 requests httpx aiohttp ftplib smtplib smtpd poplib imaplib nntplib telnetlib
        xmlrpc xmlrpclib wsgiref cgi syslog torch.distributed.init_process_group torch.distributed.TCPStore
        torch.distributed.distributed_c10d torch._C._distributed_c10d.TCPStore huggingface_hub boto3 pycurl
        """,
    "reaches any attribute of anything, and so everything": """
        builtins.getattr builtins.setattr builtins.delattr builtins.hasattr builtins.globals builtins.locals
        builtins.vars builtins.dir builtins.memoryview builtins.classmethod builtins.staticmethod builtins.__dict__
        operator.attrgetter operator.methodcaller operator.itemgetter operator.call _operator.attrgetter
        _operator.methodcaller _operator.itemgetter _operator.call inspect.getattr_static pydoc unittest.mock
        builtins.exit builtins.quit builtins.copyright builtins.credits builtins.license
        """,
    "switches off or stands in for a scanner of pickles": """
        fickling picklescan modelscan model_unpickler saferpickle modelaudit torch._weights_only_unpickler
        torch.serialization.add_safe_globals
        """,
}
_REASONS = {name: reason for reason, names in _GROUPS.items() for name in names.split()}

_HARMLESS = _names("""
    _codecs.encode _io.BytesIO _io.StringIO io.BytesIO io.StringIO __future__ torch.serialization._get_layout
    joblib.numpy_pickle.NumpyArrayWrapper joblib.numpy_pickle.NDArrayWrapper _weakrefset.WeakSet _operator operator
    torch.jit._pickle.build_intlist torch.jit._pickle.build_tensorlist torch.jit._pickle.build_doublelist
    torch.jit._pickle.build_boollist torch.jit._pickle.build_tensor_from_id torch.jit._pickle.restore_type_tag
    torch.distributed.checkpoint.filesystem._StorageInfo torch.distributed.checkpoint.filesystem._StoragePrefix
    copyreg._reconstructor copyreg.__newobj__ copyreg.__newobj_ex__ re._compile zoneinfo.ZoneInfo._unpickle
    posixpath.join http.HTTPStatus signal.Signals torch.testing._internal.two_tensor.TwoTensor
""")
"""Exceptions to the table: they make data and nothing else."""

_ANYWHERE = _names("""
    system popen Popen check_output check_call getoutput getstatusoutput fork_exec spawn startfile posix_spawn execv
    execve execvp execl execlp eval exec execfile execWrapper _run_code run_code run_path run_module runctx runcode
    runsource runstring runcommand import_module __import__ load loads load_module load_model load_library load_dynamic
    exec_module _load_from_bytes read_pickle unpickle urlopen urlretrieve rmtree unlink CDLL cdll LoadLibrary
    resolve_name locate instantiate basichandlers get_type_hints
""")
"""Names that mean the same wherever a module has brought them in from: `platform.popen`, `x.y.eval`."""

COMPUTED = "_computed_"
"""Stands for the module of a name that the file only works out when it is loaded."""

_MODULES = _names("os sys subprocess posix nt builtins importlib shutil socket ctypes pickle marshal")
"""Modules that are attributes of other modules: `torch.serialization` + `os`."""

_NOT_A_CLASS = re.compile(r"_*[a-z0-9_]*$")
_DATA = re.compile(
    r"builtins\.(str|int|float|bool|list|dict|set|bytes|tuple)\.[a-z]\w*$|torch\.(Tensor|nn|optim|_C\.TensorBase)\."
)
"""Classes of which every method only makes data of data."""

LOADERS = _names("""
    torch.storage._load_from_bytes torch.load torch.serialization.load pickle.loads pickle.load pickle._loads
    _pickle.loads _pickle.load dill.loads dill._dill.loads cloudpickle.loads cloudpickle.cloudpickle.loads joblib.load
""")
"""Calls that read a pickle in the bytes they are given."""

FOLLOWED = LOADERS | {"builtins.getattr"}
"""Calls that are looked into: where they lead depends on their arguments."""


def reach(name: Global) -> str | None:
    """What a file can do with a name, such as "runs commands or programs"; None if nothing is known against it.

    A pickle of protocol 4 may name `torch` and `serialization.os.system`, which walks through attributes: every part
    of such a path is judged, and a path that leads through anything but classes is one that can lead anywhere.
    """
    if name.module == COMPUTED:
        return "is a name that the file only works out when it is loaded"
    if "changed" in name.uses:
        return "is changed for the whole program: the file writes into the module, class or function itself"
    if str(name) in _HARMLESS:
        return None
    walked, below = name.name.split("."), name.module.split(".")
    paths = [".".join([*below, *walked][:length]) for length in range(1, len(below) + len(walked) + 1)]
    if len(walked) > 1:
        for start, part in enumerate(walked[:-1]):
            known = _REASONS.get(part.lstrip("_"))
            if known:
                return f"leads to {'.'.join(walked[start:])}, which {known}"
    if len(walked) > 1 or _HARMLESS.isdisjoint(paths):
        known = next((_REASONS[path] for path in paths if path in _REASONS), None)
    else:
        known = _REASONS.get(paths[-1])
    return known or _by_its_form(str(name), below[0], walked)


def _by_its_form(full: str, top: str, walked: list[str]) -> str | None:
    """What a name that is in no table gives away by how it is made."""
    last, own = walked[-1], top in sys.stdlib_module_names
    if any(part.startswith("__") and part.endswith("__") for part in walked):
        return "reaches into the inside of an object, and so everything"
    if last in _ANYWHERE or _MODULES & {part.lstrip("_") for part in walked}:
        return f"is, by its last name, one that runs code or opens files ('{last}')"
    if _DATA.match(full):
        return None
    if any(_NOT_A_CLASS.match(part) for part in walked[:-1]):
        return "walks through attributes of a module to something that the file does not name"
    if len(walked) > 1 and _NOT_A_CLASS.match(last) and (own or top == "torch"):
        return "is a method of a class of Python's or PyTorch's own, which can do whatever that class can"
    if own and full not in _HARMLESS and ((top.startswith("_") and top not in _HARMLESS) or re.match("_[a-z]", last)):
        return "is a private part of Python, which no honest file names"
    return None
