"""What calling a name could reach: nothing, for the names that honest files hold."""

from __future__ import annotations

import pytest

from mvae.checkpoint.pickled.reach import reach
from mvae.checkpoint.pickled.values import Global

HARMLESS = [
    "collections OrderedDict", "collections defaultdict", "datetime datetime", "decimal Decimal", "uuid UUID",
    "pathlib PosixPath", "argparse Namespace", "types SimpleNamespace", "logging getLogger", "functools partial",
    "numpy.core.multiarray _reconstruct", "numpy._core.multiarray scalar", "numpy.random._pickle __randomstate_ctor",
    "numpy dtype", "re _compile", "copyreg _reconstructor", "builtins set", "builtins slice", "builtins ValueError",
    "exceptions KeyError", "_io BytesIO", "torch.nn.modules.linear Linear", "torch.nn.functional relu",
    "torch._C._nn gelu", "torch.optim.adam Adam", "torch.distributed._shard.sharded_tensor.api ShardedTensor",
    "omegaconf.listconfig ListConfig", "lightning.fabric.utilities.data AttributeDict", "transformers AutoConfig",
    "sklearn.linear_model._logistic LogisticRegression", "pandas.core.frame DataFrame", "operator add",
    "myproject.models Outer.Inner", "zoneinfo ZoneInfo._unpickle", "builtins str.lower", "torch Tensor.relu",
]  # fmt: skip


@pytest.mark.parametrize("where", HARMLESS)
def test_what_honest_files_hold_raises_no_alarm(where: str) -> None:
    module, attribute = where.split(" ")
    assert reach(Global(module, attribute)) is None
