"""The repository itself: lists that must agree, and what must not be in it."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mvae
from mvae.data import movielens

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [
    Requirement(text) for text in [*PROJECT["dependencies"], *EXTRAS["teach"], *EXTRAS["grade"], *EXTRAS["test"]]
]

#: What conda-forge calls it → what PyPI calls it.
CONDA_NAMES = {
    "pytorch-cpu": "torch",
    "pytorch": "torch",
    "matplotlib-base": "matplotlib",
    "playwright-python": "playwright",
}


def specs(requirements: list[Requirement]) -> dict[str, set[str]]:
    return {canonicalize_name(r.name): {str(part) for part in r.specifier} for r in requirements}


def tracked() -> list[Path]:
    try:
        done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout, so nothing says which files belong to the project")
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


# ---- dependencies ----------------------------------------------------------------------------------------------


def conda_requirements() -> dict[str, set[str]]:
    """The entries of environment.yml; its nested ``pip:`` list installs this package and nothing else."""
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    top, nested = text.split("  - pip:\n")
    assert [line.strip() for line in nested.splitlines() if line.strip()] == ["- --no-deps --editable ."]
    listed = [
        Requirement(line)
        for line in re.findall(r"^  - ([a-z][^#\n]*?)\s*(?:#.*)?$", top, re.MULTILINE)
        if line not in ("conda-forge", "pip")
    ]
    return {CONDA_NAMES.get(name, name): parts for name, parts in specs(listed).items()}


def test_conda_and_pip_install_the_same() -> None:
    python = {"python": {PROJECT["requires-python"]}}
    assert conda_requirements() == specs(REQUIREMENTS) | python


def pins() -> dict[str, str]:
    found = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!+]+)", line.strip())
            assert match, f"constraints.txt: {line!r} is no exact version"
            name = canonicalize_name(match[1])
            assert name not in found, f"constraints.txt: {name} stands there twice"
            found[name] = match[2]
    return found


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda requirement: requirement.name)
def test_every_direct_dependency_is_pinned_within_its_range(requirement: Requirement) -> None:
    version = pins().get(canonicalize_name(requirement.name))
    assert version is not None, f"{requirement.name} is not in constraints.txt"
    assert requirement.specifier.contains(version, prereleases=True)


def test_the_two_releases_of_lightning_that_were_malware_are_excluded() -> None:
    (lightning,) = (r for r in REQUIREMENTS if r.name == "lightning")
    assert not lightning.specifier.contains("2.6.2")
    assert not lightning.specifier.contains("2.6.3")
    assert lightning.specifier.contains("2.6.0")
    assert not {pins()["lightning"], pins().get("pytorch-lightning")} & {"2.6.2", "2.6.3"}


def test_the_package_and_its_metadata_have_one_version() -> None:
    assert PROJECT["dynamic"] == ["version"], "setuptools takes it from mvae.__version__"
    assert mvae.__version__ == importlib.metadata.version("mvae")


def test_the_command_is_installed_under_its_name() -> None:
    module, function = PROJECT["scripts"]["mvae"].split(":")
    program = f"import sys; sys.argv = ['mvae', '--help']; from {module} import {function}; {function}()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0
    assert "Usage: mvae" in re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)


# ---- what is in git --------------------------------------------------------------------------------------------

HOME = re.compile(r"(?<![\w.~-])/(?:home|Users|root)/\w|[A-Z]:\\Users\\")


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def test_no_file_holds_a_path_of_somebodys_machine() -> None:
    here = [str(ROOT), sys.prefix] if len(ROOT.parts) > 2 else []
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()[:100]}"
        for path in tracked()
        for line in text_of(path).splitlines()
        if HOME.search(line) or any(place in line for place in here)
    ]
    assert found == []


def test_what_is_fetched_or_made_stays_out_of_git() -> None:
    wrong = [p for p in tracked() if p.suffix in (".ckpt", ".zip", ".whl", ".safetensors", ".pyc")]
    assert wrong == []
    assert [p.name for p in tracked() if p.parent == ROOT / "data"] == ["README.md"]
    made = ["data/ml-100k.zip", f"data/{movielens.RECBOLE_WHEEL}", "x.ckpt", "build/course/01_build.html", ".venv/x"]
    done = subprocess.run(["git", "check-ignore", *made], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == made


def test_the_page_on_the_data_gives_the_checksums_that_are_checked() -> None:
    page = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    for constant in (movielens.RATINGS_SHA256, movielens.OFFICIAL_SHA256, movielens.RECBOLE_SHA256):
        assert constant in page
    for name in (movielens.OFFICIAL_URL, movielens.RECBOLE, movielens.RECBOLE_WHEEL, "MVAE_DATA"):
        assert name in page


# ---- what the pages say ----------------------------------------------------------------------------------------


def each_page(check: Callable[[str], list[str]]) -> dict[str, list[str]]:
    """Page → what is wrong in it, for every Markdown page in git that has something wrong."""
    pages = [path for path in tracked() if path.suffix == ".md"]
    assert ROOT / "README.md" in pages
    found = {str(path.relative_to(ROOT)): check(path) for path in pages}
    return {name: wrong for name, wrong in found.items() if wrong}


def test_links_in_the_pages_lead_somewhere() -> None:
    def broken(page: Path) -> list[str]:
        targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text(encoding="utf-8"))
        return [target for target in targets if not (page.parent / target).exists()]

    assert each_page(broken) == {}


def test_every_make_command_in_the_pages_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {"lab", "course", "test"} <= targets

    def unknown(page: Path) -> list[str]:
        used = re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
        return [target for target in used if target not in targets]

    assert each_page(unknown) == {}


# ---- waiting threads -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "before", "after"),
    [
        ("from mvae import fit", None, "passive"),
        ("from mvae import fit", "active", "active"),
        ("import torch; from mvae import fit", None, "None"),  # too late to matter, so left alone
        ("import mvae.checkpoint, mvae; mvae.checkpoint.inspect", None, "None"),
    ],
)
def test_threads_wait_asleep_wherever_a_training_starts(code: str, before: str | None, after: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {} if before is None else {"OMP_WAIT_POLICY": before}
    code += "; import os; print(os.environ.get('OMP_WAIT_POLICY'))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [after]
