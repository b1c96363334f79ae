"""Runs the command line as a user does, but in this process."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from mvae import synthetic
from mvae.cli import main


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def mvae(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """``mvae("train", "--seed", 1)`` → exit code, standard output, standard error."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*arguments: object, stdin: bytes = b"") -> Done:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        monkeypatch.setattr(sys, "argv", ["mvae", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture
def refused(mvae: Callable[..., Done]) -> Callable[..., str]:
    """Runs a command that must fail as bad input does: exit code 2, one message, no traceback. Gives the message."""

    def run(*arguments: object) -> str:
        done = mvae(*arguments)
        assert done.code == 2
        assert "Traceback" not in done.err
        assert done.err.startswith("mvae: ")
        return done.err.removeprefix("mvae: ").strip()

    return run


@pytest.fixture(scope="session")
def ratings_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 people and 40 films with ids 100 to 139, titles and some ratings below 4."""
    path = tmp_path_factory.mktemp("csv") / "films.csv"
    entries = synthetic(120, 40, interactions_per_user=9).matrix.tocoo()
    lines = ["userId,movieId,rating,title"]
    for user, item in zip(entries.row, entries.col, strict=True):
        lines.append(f'{user},{item + 100},{4 + (user + item) % 2},"{title(item + 100)}"')
    lines += [f'{user},{100 + user % 40},2,"{title(100 + user % 40)}"' for user in range(0, 120, 7)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def title(item_id: int) -> str:
    """Unlike each other, two that begin alike, and one that rich would take for markup."""
    special = {
        100: "Alien (1979)",
        101: "Aliens (1986)",
        102: "Misérables, Les (1995)",
        103: "Twice Told (1963)",
        104: "Twice Told (1963)",
        105: "[red]Heat[/] [/bold] (1995)",
        106: "",
    }
    return special.get(item_id, f"Film number {item_id} (1990)")


@pytest.fixture(scope="session")
def checkpoint(ratings_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``mvae train`` leaves for that file. Shared: read it, change nothing."""
    out = tmp_path_factory.mktemp("films")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sys, "argv", ["mvae", "train", "--data", str(ratings_csv), "--out", str(out), "--max-epochs", "3"]
        )
        with pytest.raises(SystemExit) as ended:
            main()
    assert not ended.value.code
    (path,) = out.glob("multi-vae-*.ckpt")
    return path
