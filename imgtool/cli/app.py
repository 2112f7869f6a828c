"""From argv to a command, and from what it raised to a line on stderr and an exit status.

Built on Typer, with three changes: commands are imported when they are called; the global options are
accepted before and after the command's name; errors are told in imgtool's own style.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
import typer.core
import typer.main

from imgtool import __version__
from imgtool.cli.context import Context
from imgtool.cli.table import ALIASES, COMMANDS, GROUP_ALIASES, GROUPS
from imgtool.errors import ImgtoolError, InvalidArgument, ResourceExhausted, from_oserror

if TYPE_CHECKING:
    from typer._click import Command as AnyCommand
    from typer._click import Context as AnyContext
    from typer._click import HelpFormatter, Parameter

CLOSED_PIPE = 141


def run(argv: Sequence[str]) -> int:
    """Run one command line; returns the exit status. Nothing but KeyboardInterrupt, SystemExit and
    what a signal handler raises comes out of it.
    """
    context = Context()
    try:
        try:
            with (
                closing(context),
                _top().make_context("imgtool", list(argv), obj=context) as ctx,
            ):
                ctx.command.invoke(ctx)
        except typer.Exit:
            pass
        except (Exception, RecursionError) as error:
            context.failures.add(_as_ours(error, context))
        context.out.flush()
    except BrokenPipeError:
        return CLOSED_PIPE
    except ImgtoolError as error:
        context.failures.add(error)
    return context.failures.exit_code


def _as_ours(error: Exception, context: Context) -> ImgtoolError:
    """The error to report. A broken pipe is none."""
    if isinstance(error, BrokenPipeError):
        raise error
    if isinstance(error, ImgtoolError):
        return error
    if isinstance(error, typer.TyperException):
        return _usage(error)
    if isinstance(error, OSError):
        return from_oserror(error)
    if isinstance(error, MemoryError):
        return ResourceExhausted("out of memory")
    if context.debug:
        import traceback

        traceback.print_exception(error)
    return ImgtoolError(
        f"internal error: {type(error).__name__}: {error}",
        hint=None if context.debug else "repeat the command with --debug for a traceback, and report it",
    )


def _usage(error: typer.TyperException) -> InvalidArgument:
    message = error.format_message().rstrip(".")
    ctx: AnyContext | None = getattr(error, "ctx", None)
    near = getattr(error, "possibilities", None)
    if near:
        message = error.message
        hint = f"did you mean {' or '.join(sorted(near))}?"
    else:
        hint = f"try '{ctx.command_path if ctx else 'imgtool'} --help'"
    return InvalidArgument(message[:1].lower() + message[1:], hint=hint)


def _take(ctx: typer.Context, param: typer.CallbackParam, value: Any) -> None:
    """Put a global option into the `Context`. One behind the command's name overrules one before
    it; the environment counts once.
    """
    source = ctx.get_parameter_source(param.name or "")
    if source is None or source.name not in ("COMMANDLINE", "ENVIRONMENT" if ctx.parent is None else ""):
        return
    if param.name == "help":
        ctx.obj.out.write(ctx.get_help() + "\n")
        raise typer.Exit
    if param.name == "version":
        ctx.obj.out.write(f"imgtool {__version__}\n")
        raise typer.Exit
    setattr(ctx.obj, param.name or "", value)


def _option(*names: str, **more: Any) -> Any:
    """A global option: taken before all others, so that errors in those are told as it says."""
    return typer.Option(
        *names,
        callback=_take,
        expose_value=False,
        is_eager=True,
        show_default=False,
        show_envvar=False,
        **more,
    )


def _global_options(
    root_option: Annotated[
        str | None,
        _option(
            "--root",
            metavar="DIR",
            envvar="IMGTOOL_ROOT",
            help="The store: $IMGTOOL_ROOT, ~/.local/share/imgtool.",
        ),
    ] = None,
    namespace_option: Annotated[
        str | None,
        _option(
            "-n",
            "--namespace",
            metavar="NS",
            envvar=["IMGTOOL_NAMESPACE", "CONTAINERD_NAMESPACE"],
            help="$IMGTOOL_NAMESPACE, $CONTAINERD_NAMESPACE, default.",
        ),
    ] = None,
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


def _with_context(function: Callable[..., None]) -> Callable[..., None]:
    """`function(c: Context, …)` as Typer wants it: Typer's context in front instead of ours."""
    signature = inspect.signature(function, eval_str=True)
    first, *rest = signature.parameters.values()

    def call(ctx: typer.Context, **values: Any) -> None:
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
