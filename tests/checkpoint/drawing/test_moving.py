"""The byte map and the pickle, step by step."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from html import unescape
from io import BytesIO
from pathlib import Path

import pytest
import torch
from screen import saved

from mvae.checkpoint import byte_map, inspect, pickle_steps
from mvae.errors import CheckpointError


def table(piece: object) -> list[list[str]]:
    """The rows of a piece's table, without the head."""
    rows = re.findall(r"<tr>(.*?)</tr>", piece._repr_html_(), re.DOTALL)[1:]
    return [[unescape(re.sub(r"<[^>]*>", "", cell)) for cell in re.findall(r"<td>.*?</td>", row)] for row in rows]


def test_the_ranges_of_every_kind_of_file_go_from_its_first_byte_to_its_last(zoo: dict[str, Path]) -> None:
    for path in zoo.values():
        file = inspect(path)
        try:
            page = byte_map(file)._repr_html_()
        except CheckpointError as error:
            assert "folder" in str(error)  # noqa: PT017
            continue
        assert len(page) < 60_000, path
        past = 0
        for _, span, length, *_ in table(byte_map(file)):
            start, last = (int(number.replace(",", "")) for number in span.split(" – "))
            assert start == past, path
            past = last + 1
            assert past - start == int(length.replace(",", ""))
        assert past == file.size or "the first 100" in page, path


def test_a_range_says_whose_it_is_and_where_the_pickle_names_it() -> None:
    data = saved({"epoch": 1, "state_dict": {"w": torch.ones(2, 3)}})
    rows = {row[3]: row for row in table(byte_map(inspect(data)))}
    _, _, _, _, owner, where, tensor, named = rows["data/0"]
    assert (owner, tensor) == ("weights", "state_dict.w [2, 3]")
    first, last = (int(number) for number in where.split(" – "))
    assert data[first : last + 1] == torch.ones(2, 3).numpy().tobytes()
    at = int(re.search(r"byte (\d+) of data.pkl: BINPERSID '0'", named)[1])
    assert zipfile.ZipFile(BytesIO(data)).read("archive/data.pkl")[at : at + 1] == b"Q"


def test_names_from_the_file_are_escaped() -> None:
    page = byte_map(inspect(saved({"state_dict": {"<img src=x onerror=alert(1)>": torch.ones(2)}})))._repr_html_()
    assert "<img" not in page
    assert "&lt;img src=x" in page


def test_of_many_pieces_the_first_are_shown() -> None:
    file = inspect(saved({f"w{number}": torch.ones(1) for number in range(300)}))
    assert len(table(byte_map(file))) == 100
    assert "the first 100 of 30" in repr(byte_map(file))


def test_the_steps_of_a_small_checkpoint_end_with_an_empty_stack() -> None:
    pickle = zipfile.ZipFile(BytesIO(saved({"epoch": 1, "w": torch.ones(2, 3)}))).read("archive/data.pkl")
    rows = table(pickle_steps(pickle))
    assert [row[2] for row in rows[:3]] == ["PROTO", "EMPTY_DICT", "MARK"]
    assert rows[1][4] == "Push an empty dict. Bookmark 0."
    assert rows[-2][5] == "{'epoch': 1, 'w': <tensor float32 [2, 3]>}"
    assert rows[-1][2:] == ["STOP", "", "Stop the unpickling machine.", ""]


@pytest.mark.parametrize(
    "program", [b"]" * 1000, b"]" + b"\x94" * 10**6, b"(" * 10**6, b"}" + b"2\x86" * 500, b"", b"\xff"]
)
def test_a_long_program_is_cut_and_a_broken_one_ends(program: bytes) -> None:
    page = pickle_steps(program)
    assert len(page._repr_html_()) < 100_000
    assert ("the first of a longer program" in repr(page)) == (len(program) > 1)


def test_numpy_and_torch_are_not_imported_for_them() -> None:
    program = "import sys, mvae.checkpoint.drawing.moving; print({'torch', 'numpy', 'rich'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
