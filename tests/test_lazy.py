"""Names are imported when they are first used: `import mvae` is quick, and its checkpoint part works without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import mvae
import mvae.checkpoint
import mvae.data
from mvae._lazy import lazy_names

HEAVY = ("torch", "lightning", "pandas", "scipy", "numpy", "matplotlib", "rich")


@pytest.mark.parametrize("module", ["mvae", "mvae.data", "mvae.checkpoint", "mvae.cli"])
def test_importing_the_package_imports_nothing_heavy(module: str) -> None:
    program = f"import sys; import {module}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("package", [mvae, mvae.data, mvae.checkpoint], ids=lambda package: package.__name__)
def test_every_name_that_is_offered_is_there(package: object) -> None:
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert name in dir(package)


def test_a_name_comes_from_its_module_and_stays() -> None:
    from mvae.metrics import recall_at_k

    assert mvae.recall_at_k is recall_at_k
    assert "recall_at_k" in vars(mvae)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'mvae' has no attribute 'nonsense'"):
        _ = mvae.nonsense
    assert not hasattr(mvae.data, "nonsense")


def test_a_missing_package_is_reported_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "__init__.pyi").write_text("from mvae.there_is_no_such_module import thing as thing\n")
    broken, names = lazy_names("mvae", str(tmp_path / "__init__.py"))
    assert names == ["thing"]
    with pytest.raises(ModuleNotFoundError, match="there_is_no_such_module"):
        broken("thing")
