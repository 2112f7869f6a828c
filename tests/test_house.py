"""The house's rules, of which a reviewer need not think: what a command consists of, who may do what."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgtool import errors
from imgtool.cli.table import ALIASES, COMMANDS, GROUP_ALIASES, GROUPS
from tests.fixture_runner import ROOT, WORLD

PACKAGE = ROOT / "imgtool"
MODULES = sorted(PACKAGE.rglob("*.py"))
FILES = sorted(PACKAGE.glob("cli/cmd_*.py"))


# --- what a command consists of --------------------------------------------------------------------


def test_every_module_of_a_command_is_in_the_table() -> None:
    """A command that is not in the table cannot be called."""
    assert {path.stem.removeprefix("cmd_").replace("_", "-") for path in FILES} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_its_functions(name: str) -> None:
    """The table promises what the module must hold."""
    tree = ast.parse((PACKAGE / "cli" / f"cmd_{name}.py").read_text())
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    expected = {f"run_{sub}" for sub in GROUPS[name]} if name in GROUPS else {"run"}
    assert {f for f in functions if re.fullmatch("run(_.*)?", f)} == expected


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_a_fixture(name: str) -> None:
    """A story of what it does, which the reader of a change sees."""
    assert list((ROOT / "fixtures").glob(f"{name}-*/cmd"))


@pytest.mark.parametrize("name", ["imgtool", *COMMANDS])
def test_the_help_of_a_command_is_pinned(name: str) -> None:
    """Help is what most people read; a change of it is to be seen in the change."""
    lines = (ROOT / "fixtures" / f"help-{name}" / "cmd").read_text().splitlines()
    words = ["imgtool"] if name == "imgtool" else ["imgtool", name]
    expected = [words, *([*words, sub] for sub in GROUPS.get(name, ()))]
    assert lines == [" ".join([*line, "--help"]) for line in expected]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_a_man_page_that_tells_every_option(name: str) -> None:
    """The page is written by hand, so an option is easily forgotten."""
    page = (ROOT / "man" / f"imgtool-{name}.1").read_text()
    plain = re.sub(r"\\f.|\\&|\.\w\w? ", "", page).replace("\\-", "-")
    help = (ROOT / "fixtures" / f"help-{name}" / "stdout").read_text()
    own = re.sub(r"(?ms)^Global options:.*?^  -h, --help[^\n]*$", "", help)
    assert [o for o in re.findall(r"(?m)^  (?:-\w, )?(--[\w-]+)", own) if o not in plain] == []
    for sub in GROUPS.get(name, ()):
        assert re.search(rf"\b{sub}\b", plain)


def test_an_alias_hides_no_command() -> None:
    assert not set(ALIASES) & set(COMMANDS)
    for table in GROUPS.values():
        assert not {a for a, name in GROUP_ALIASES.items() if name in table} & set(table)


def test_a_changelog_fragment_has_one_of_the_kinds() -> None:
    """The release script sorts them by the first word."""
    for path in (ROOT / "changelog" / "unreleased").glob("*.md"):
        assert re.match(r"(Added|Changed|Fixed|Removed|Security): \S", path.read_text()), path.name


# --- the exit codes --------------------------------------------------------------------------------

CLASSES: list[type[errors.ImgtoolError]] = [errors.ImgtoolError, *errors.ImgtoolError.__subclasses__()]


def test_the_manual_has_the_exit_codes_of_the_classes() -> None:
    """The number is on the class; the page tells it to the user; they are to be the same."""
    page = (ROOT / "man" / "imgtool.1").read_text()
    section = re.search(r'(?ms)^\.SH "?EXIT STATUS"?\n(.*?)^\.SH ', page)
    assert section, "imgtool.1 has no section EXIT STATUS"
    told = set(re.findall(r"(?m)^\.(?:B|BR|IP|TP)\b[^\n]*?(?<![\d.])(\d{1,3})(?![\d.])", section[1]))
    assert {str(c.exit_code) for c in CLASSES} <= told
    assert {"0", "130", "141", "143"} <= told
    assert told <= {str(c.exit_code) for c in CLASSES} | {"0", "130", "141", "143"}


def test_no_two_classes_share_an_exit_code() -> None:
    assert sorted(c.exit_code for c in CLASSES) == list(range(1, len(CLASSES) + 1))


# --- who may do what -------------------------------------------------------------------------------


def calls(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """The dotted names that are called, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node.lineno


def offenders(forbidden: str, *allowed: str) -> list[str]:
    """Where a call whose dotted name matches `forbidden` stands outside the modules `allowed`."""
    return [
        f"{path.relative_to(PACKAGE)}:{line} {name}"
        for path in MODULES
        if str(path.relative_to(PACKAGE)) not in allowed
        for name, line in calls(ast.parse(path.read_text()))
        if re.fullmatch(forbidden, name)
    ]


def test_only_disk_atomic_changes_the_file_system() -> None:
    """Crash tests break the disk by patching that module; a rename elsewhere would escape them."""
    changing = (
        r"(os|shutil)\.(rename|renames|replace|link|symlink|unlink|remove|removedirs|rmdir|rmtree|move|mkdir"
        r"|makedirs|truncate|ftruncate|fsync|fdatasync|sync|chmod|fchmod|utime|copy\w*|mkfifo|mknod)"
    )
    assert offenders(changing, "disk/atomic.py") == []


def test_only_disk_layout_joins_paths() -> None:
    """A name from outside must have no way into a path (FAULTS T1, T14)."""
    assert offenders(r"os\.path\.join|.*\bPath|.*\.joinpath", "disk/layout.py") == []


def test_only_digest_makes_hashers() -> None:
    """One list of algorithms."""
    assert offenders(r"hashlib\..*|blake3(\.\w+)?", "digest.py") == []


def test_only_clock_asks_for_the_time() -> None:
    """SOURCE_DATE_EPOCH must rule every record; the progress line is no record."""
    asking = r"time\.(time|time_ns|gmtime|localtime|strftime)|.*\bdatetime\.(now|utcnow|today)"
    assert offenders(asking, "clock.py") == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_command_only_parses_calls_and_renders(path: Path) -> None:
    """Loops, paths, environment and failures have their places below (STYLE 4)."""
    source = path.read_text()
    tree = ast.parse(source)
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Try | ast.While), f"line {node.lineno}"
    assert not re.search(r"\bos\.(environ|path)|\bPath\b", source)


# --- what is imported ------------------------------------------------------------------------------

HEAVY = [
    *("pydantic", "rich", "asyncio", "importlib.metadata", "logging", "http", "re2", "tomllib", "tomli_w"),
    *("hpack", "google.protobuf"),
]


@pytest.mark.parametrize(
    "words", [["list"], ["list", "--sort", "name"], ["list", "--help"], ["delete", "--all"]]
)
def test_nothing_heavy_is_imported(words: list[str], tmp_path: Path) -> None:
    """Each of them costs more than the whole command."""
    script = (
        "import sys\n"
        "from imgtool.cli.main import run\n"
        f"code = run({words!r})\n"
        f"loaded = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "sys.exit(f'exit {code}, imports {loaded}' if code or loaded else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**WORLD, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_fast_way_does_not_import_typer(tmp_path: Path) -> None:
    """That is all that it is for."""
    script = (
        "import sys\nfrom imgtool.cli.main import run\n"
        "sys.exit(run(['list', '-q']) or ('typer' in sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**WORLD, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    assert done.returncode == 0


def test_the_layers_hold() -> None:
    """Imports point down; side by side is unaware of each other (pyproject.toml has the contracts)."""
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
