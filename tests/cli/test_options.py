"""How the commands read their options."""

from __future__ import annotations

import pytest

from mvae.cli.options import Parser, summary, whole

DOC = """Look at
files.

More about it.
"""


def parser(*arguments: str) -> Parser:
    made = Parser("mvae look", DOC, list(arguments))
    made.add_argument("files", nargs="*")
    made.add_argument("--depth", type=whole(0, 9), default=2)
    made.add_argument("--json", action="store_true")
    return made


@pytest.mark.parametrize(
    "arguments",
    [["--depth", "3", "a", "b", "--json"], ["a", "--json", "--depth=3", "b"], ["a", "b", "--json", "--depth=3"]],
)
def test_options_and_files_come_in_any_order(arguments: list[str]) -> None:
    found = parser(*arguments).options()
    assert (found.files, found.depth, found.json) == (["a", "b"], 3, True)


def test_behind_two_dashes_everything_is_a_file() -> None:
    found = parser("--json", "--", "-x", "--depth", "c").options()
    assert found.files == ["./-x", "./--depth", "c"]
    assert (found.json, found.depth) == (True, 2)


def test_only_what_was_typed_is_given() -> None:
    assert parser("a", "--depth", "2").given() == {"files": ["a"], "depth": 2}
    assert parser("a", "--json").given() == {"files": ["a"], "json": True}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dep", "3"], "unrecognized arguments: --dep"),
        (["--depth", "10"], "expected a whole number from 0 to 9, not '10'"),
        (["--depth", "2.5"], "expected a whole number from 0 to 9, not '2.5'"),
        (["--depth", "-1"], "expected a whole number from 0 to 9, not '-1'"),
    ],
)
def test_bad_usage_is_exit_2_one_message_and_where_to_read_on(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parser(*arguments).options()
    assert ended.value.code == 2
    assert said in (told := capsys.readouterr().err)
    assert told.startswith("mvae look: ")
    assert told.endswith("Try 'mvae look --help'.\n")


def test_the_help_opens_with_the_first_paragraph_and_ends_with_the_rest() -> None:
    text = parser().format_help()
    assert text.startswith("Usage: mvae look")
    assert text.index("Look at files.") < text.index("  --depth DEPTH") < text.index("More about it.")
    assert summary(DOC) == "Look at files."


def test_a_number_without_an_upper_limit() -> None:
    assert whole(1)("1000000") == 1_000_000
    with pytest.raises(Exception, match="expected a whole number of at least 1, not '0'"):
        whole(1)("0")
