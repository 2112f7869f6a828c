"""The manual says what the code does, where a test can tell."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from imgtool import errors
from imgtool.cli.table import ALIASES, COMMANDS
from imgtool.disk import codec, settings
from imgtool.names import file_name

MAN = Path(__file__).resolve().parents[2] / "man"


def section(page: str, heading: str) -> str:
    """The source of a section of a page."""
    text = (MAN / page).read_text()
    return text.partition(f"\n.SH {heading}\n")[2].partition("\n.SH ")[0]


def test_the_exit_statuses_are_those_of_the_errors() -> None:
    """Scripts rely on the table; the class has the number."""
    told = dict(re.findall(r"^\.B (\d+)\n(\w+):", section("imgtool.1", "EXIT STATUS"), re.M))
    classes = [
        cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.ImgtoolError)
    ]
    assert told == {str(cls.exit_code): cls.grpc for cls in classes}


def test_the_commands_are_those_of_the_table() -> None:
    """With the summaries of `--help`, in its order."""
    text = section("imgtool.1", "COMMANDS")
    told = re.findall(r"^\.BR imgtool\\-(\w+) \(1\)\n(.*)", text, re.M)
    assert told == [(name, summary[0].lower() + summary[1:]) for name, summary in COMMANDS.items()]
    for short, name in ALIASES.items():
        assert re.search(rf"\.B {short}\n(?:is short )?for\n\.BR {name} ", text), short


def test_the_options_are_those_of_help() -> None:
    from imgtool.cli.app import GLOBAL_OPTIONS

    text = section("imgtool.1", "OPTIONS").replace("\\-", "-")
    for option in GLOBAL_OPTIONS:
        for name in option.opts:
            assert re.search(rf"(?<![\w-]){name}(?![\w-])", text), name


def test_the_settings_of_a_new_store_are_those_of_the_page() -> None:
    """Whoever writes a store from the page copies them."""
    example = section("imgtool-store.5", "SETTINGS").rpartition(".nf\n")[2].partition(".fi")[0]
    told = "".join(f"{line.strip()}\n" for line in example.splitlines())
    form = {"read": settings.FORMAT, "write": settings.FORMAT}
    assert told.encode() == codec.dump({"format": form}, "imgtool.toml")


def test_the_file_names_of_the_page_are_those_that_are_written() -> None:
    rows = re.findall(r"^(?:\\&)?(\S+) {2,}(\S+\.toml)$", section("imgtool-store.5", "NAMES"), re.M)
    assert len(rows) == 3
    for name, told in rows:
        assert told == file_name(name) + ".toml"


@pytest.mark.parametrize("page", sorted(path.name for path in MAN.iterdir()))
def test_a_page_has_what_every_page_has(page: str) -> None:
    text = (MAN / page).read_text()
    name, _, number = page.rpartition(".")
    written = name.replace("-", "\\-")
    head = f'.TH {written.upper()} {number} "" imgtool "imgtool manual"\n.SH NAME\n{written} \\- '
    assert text.startswith(head)
    assert "\n.SH DESCRIPTION\n" in text
    assert "\n.SH SEE ALSO\n" in text
