"""The commands and their options, on Typer, with three changes.

Commands are imported when they are called; the global options are accepted before and after the
command's name; what is wrong with the usage is told in imgtool's own style.
"""

import inspect
from collections.abc import Callable, Sequence
from itertools import zip_longest
from math import isfinite
from typing import Annotated, Any, Literal

import typer
import typer.core
import typer.main
from typer._click import Command as AnyCommand
from typer._click import Context as AnyContext
from typer._click import HelpFormatter, Parameter
from typer._click.exceptions import BadParameter, ClickException, UsageError

from imgtool import __version__
from imgtool.cli.context import Context
from imgtool.cli.table import ALIASES, COMMANDS, GROUP_ALIASES, GROUPS
from imgtool.errors import InvalidArgument


def invoke(argv: Sequence[str], context: Context) -> None:
    """Run the command that `argv` names.

    Raises:
        InvalidArgument: it is used wrongly; and whatever the command raises.
    """
    try:
        with _top().make_context("imgtool", list(argv), obj=context) as ctx:
            ctx.command.invoke(ctx)
    except typer.Exit:
        return
    except ClickException as error:
        _take_format(argv, context)
        raise _usage(error) from None


def _take_format(argv: Sequence[str], context: Context) -> None:
    """Find `--format json` in a line that could not be parsed: the error is told in that format."""
    for word, following in zip_longest(argv, argv[1:], fillvalue=""):
        option, equals, value = word.partition("=")
        form = value if equals else following
        if option == "--format" and form in ("json", "jsonl"):
            context.format = form


def _usage(error: ClickException) -> InvalidArgument:
    message = error.format_message().rstrip(".").replace("a valid int range", "a whole number")
    ctx = error.ctx if isinstance(error, UsageError) else None
    near = getattr(error, "possibilities", None)
    if near:
        message = error.message
        hint = f"did you mean {' or '.join(sorted(near))}?"
    else:
        hint = f"try '{ctx.command_path if ctx else 'imgtool'} --help'"
    return InvalidArgument(message[:1].lower() + message[1:], hint=hint)


def _take(ctx: AnyContext, param: Parameter, value: Any) -> None:
    """Put a global option into the `Context`. One behind the command's name overrules one before it."""
    source = ctx.get_parameter_source(param.name or "")
    if source is None or source.name != "COMMANDLINE":
        return
    if param.name == "help":
        ctx.obj.out.write(ctx.get_help() + "\n")
        raise typer.Exit
    if param.name == "version":
        ctx.obj.out.write(f"imgtool {__version__}\n")
        raise typer.Exit
    if isinstance(value, float) and not isfinite(value):
        raise BadParameter(f"'{value}' is not a finite number", ctx, param)
    setattr(ctx.obj, param.name or "", value)


def _option(*names: str, **more: Any) -> Any:
    """A global option: taken before all others, so that errors in those are told as it says."""
    return typer.Option(
        *names,
        expose_value=False,
        is_eager=True,
        show_default=False,
        show_envvar=False,
        **more,
    )


def _global_options(
    root_option: Annotated[
        str,
        _option(
            "--root",
            metavar="DIR",
            help="The store: $IMGTOOL_ROOT, ~/.local/share/imgtool.",
        ),
    ] = "",
    namespace_option: Annotated[
        str,
        _option(
            "-n",
            "--namespace",
            metavar="NS",
            help="$IMGTOOL_NAMESPACE, $CONTAINERD_NAMESPACE, default.",
        ),
    ] = "",
    format: Annotated[
        str,
        _option("--format", metavar="FMT", help="table, json, jsonl, or a template: '{name} {size}'."),
    ] = "table",
    quiet: Annotated[bool, _option("-q", "--quiet", help="Print identifiers only, and do not talk.")] = False,
    verbose: Annotated[bool, _option("-v", "--verbose", help="Say more on stderr.")] = False,
    debug: Annotated[bool, _option("--debug", help="Show the traceback of an internal error.")] = False,
    progress: Annotated[
        Literal["auto", "plain", "none"], _option("--progress", metavar="HOW", help="auto, plain or none.")
    ] = "auto",
    lock_timeout: Annotated[
        float, _option("--lock-timeout", metavar="SECONDS", min=0, help="How long to wait for a lock (30).")
    ] = 30.0,
    version: Annotated[bool, _option("--version", help="Print the version.")] = False,
    help: Annotated[bool, _option("-h", "--help", help="Print this help.")] = False,
) -> None:
    """Never called: its parameters are the global options, and their names those of `Context`."""


def _build(name: str, function: Callable[..., None], cls: type[typer.core.TyperCommand]) -> AnyCommand:
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(name, cls=cls, add_help_option=False, options_metavar="[OPTION]...")(function)
    return typer.main.get_command(app)


GLOBAL_OPTIONS = _build("imgtool", _global_options, typer.core.TyperCommand).params
for _global in GLOBAL_OPTIONS:
    _global.callback = _take  # set here: given to Typer, its signature would be studied once an option


def _with_context(function: Callable[..., None]) -> Callable[..., None]:
    """`function(c: Context, …)` as Typer wants it: Typer's context in front instead of ours. A format
    that cannot be is refused before it is called.
    """
    signature = inspect.signature(function, eval_str=True)
    first, *rest = signature.parameters.values()

    def call(ctx: typer.Context, **values: Any) -> None:
        ctx.obj.out.check()
        function(ctx.obj, **values)

    call.__doc__ = function.__doc__
    call.__signature__ = signature.replace(  # type: ignore[attr-defined]  # what inspect looks for
        parameters=[inspect.Parameter("ctx", first.kind, annotation=typer.Context), *rest]
    )
    return call


def _write_options(own: Sequence[Parameter], ctx: AnyContext, formatter: HelpFormatter) -> None:
    for heading, params in (
        ("Arguments", [p for p in own if p.param_type_name == "argument"]),
        ("Options", [p for p in own if p.param_type_name == "option"]),
        ("Global options", GLOBAL_OPTIONS),
    ):
        records = [record for p in params if (record := p.get_help_record(ctx))]
        if records:
            with formatter.section(heading):
                formatter.write_dl(records)


class Command(typer.core.TyperCommand):
    """A command that also takes the global options."""

    def parse_args(self, ctx: AnyContext, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except UsageError as error:
            error.ctx = error.ctx or ctx  # the parser leaves it out where an option lacks its value
            raise

    def get_params(self, ctx: AnyContext) -> list[Parameter]:
        return [*self.params, *GLOBAL_OPTIONS]

    def format_options(self, ctx: AnyContext, formatter: HelpFormatter) -> None:
        _write_options(self.params, ctx, formatter)


class Group(typer.core.TyperGroup):
    """Commands from the table; each is imported when it is called."""

    def __init__(self, name: str, help: str, summaries: dict[str, str], aliases: dict[str, str]) -> None:
        super().__init__(
            name=name,
            help=help,
            rich_markup_mode=None,
            add_help_option=False,
            options_metavar="[OPTION]...",
            subcommand_metavar="COMMAND [ARG]...",
        )
        self._summaries = summaries
        self._aliases = aliases

    def get_params(self, ctx: AnyContext) -> list[Parameter]:
        return list(GLOBAL_OPTIONS)

    def list_commands(self, ctx: AnyContext) -> list[str]:
        return list(self._summaries)

    def get_command(self, ctx: AnyContext, cmd_name: str) -> AnyCommand | None:
        name = self._aliases.get(cmd_name, cmd_name)
        if name not in self._summaries:
            return None
        if ctx.parent is None and name in GROUPS:
            return Group(name, self._summaries[name] + ".", GROUPS[name], GROUP_ALIASES)
        from importlib import import_module

        group = "" if ctx.parent is None else self.name
        module = import_module(f"imgtool.cli.cmd_{group or name}")
        return _build(name, _with_context(getattr(module, f"run_{name}" if group else "run")), Command)

    def resolve_command(
        self, ctx: AnyContext, args: list[str]
    ) -> tuple[str | None, AnyCommand | None, list[str]]:
        command = self.get_command(ctx, args[0])
        if command is None:
            raise self._unknown(ctx, args[0])
        return command.name, command, args[1:]

    def _unknown(self, ctx: AnyContext, name: str) -> InvalidArgument:
        from difflib import get_close_matches

        near = get_close_matches(name, [*self._summaries, *self._aliases])
        return InvalidArgument(
            f"no such command '{ctx.command_path} {name}'",
            hint=f"did you mean '{near[0]}'?" if near else f"try '{ctx.command_path} --help'",
        )

    def format_options(self, ctx: AnyContext, formatter: HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self._summaries.items()))
        _write_options((), ctx, formatter)


def _top() -> Group:
    return Group("imgtool", "containerd's image store and content store on plain files.", COMMANDS, ALIASES)
