"""The command group, and the one border where errors become a line on stderr and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from rushes import __version__
from rushes.cli.batch import batch
from rushes.cli.bench import bench
from rushes.cli.calibrate import calibrate
from rushes.cli.compare import compare
from rushes.cli.edit import edit
from rushes.cli.generate import generate
from rushes.cli.inspect import inspect
from rushes.cli.jobs import cancel, jobs, submit
from rushes.cli.keys import keys
from rushes.cli.make_checkpoint import make_checkpoint
from rushes.cli.models import models
from rushes.cli.optimize import optimize
from rushes.cli.profile import profile
from rushes.cli.serve import gateway, serve
from rushes.cli.trace import trace
from rushes.cli.usage import usage
from rushes.cli.worker import worker
from rushes.errors import ConfigError, QueueFull, RequestError, RushesError, also_called

FAILED = 1
USER_ERROR = 2
TRY_LATER = 75  # EX_TEMPFAIL of sysexits.h
MAX_MESSAGE = 1000


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="rushes %(version)s")
def app() -> None:
    """Make videos from text.

    Every command takes --debug, which shows the traceback of an error.
    """


COMMANDS: tuple[click.Command, ...] = (
    generate,
    serve,
    gateway,
    submit,
    edit,
    batch,
    jobs,
    cancel,
    trace,
    worker,
    keys,
    usage,
    models,
    inspect,
    make_checkpoint,
    bench,
    compare,
    profile,
    calibrate,
    optimize,
)


def _add_debug(command: click.Command) -> None:
    command.params.append(
        click.Option(["--debug"], is_flag=True, expose_value=False, help="show the traceback of an error")
    )
    if isinstance(command, click.Group):
        for part in command.commands.values():
            _add_debug(part)


for command in COMMANDS:
    _add_debug(command)
    app.add_command(command)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status.

    0: done. 2: the user's error (a flag, a field, a folder). 75: the queue is full, the same again may do
    later. 1: any other error. Ctrl-C passes through as `KeyboardInterrupt`.
    """
    debug = "--debug" in arguments
    try:
        return _invoke(arguments)
    except Exception as error:
        if was_interrupted(error):
            raise KeyboardInterrupt from error
        if debug:
            raise
        print(f"rushes: error: {_one_line(error)}", file=sys.stderr)
        return _status(error)


def was_interrupted(error: BaseException) -> bool:
    """Whether an error came of Ctrl-C: what is cleaning up just then may fail in words of its own."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, KeyboardInterrupt):
            return True
        link = link.__cause__ or link.__context__
    return False


def _invoke(arguments: Sequence[str]) -> int:
    try:
        with app.make_context("rushes", list(arguments), obj=tuple(arguments)) as context:
            app.invoke(context)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return USER_ERROR
    except click.exceptions.Exit as error:
        return error.exit_code
    return 0


def _status(error: Exception) -> int:
    if isinstance(error, QueueFull):
        return TRY_LATER
    return USER_ERROR if isinstance(error, (click.UsageError, RequestError, ConfigError)) else FAILED


def _usage_message(error: click.UsageError) -> str:
    """Click's words, with what it cannot know: other programs' names, and that a prompt is one argument."""
    message = error.format_message()
    names = [] if error.ctx is None else [param.name or "" for param in error.ctx.command.params]
    if isinstance(error, click.NoSuchOption) and (meant := also_called(error.option_name.lstrip("-"), names)):
        return f"No such option {error.option_name!r}: it is '--{meant.replace('_', '-')}'"
    if "prompt" in names and message.startswith("Got unexpected extra argument"):
        message += "; put the prompt in quotes"
    return message


def _one_line(error: Exception) -> str:
    if isinstance(error, click.UsageError):
        message = _usage_message(error)
    elif isinstance(error, click.ClickException):
        message = error.format_message()
    elif isinstance(error, RushesError):
        message = str(error)
    else:
        message = f"unexpected {type(error).__name__}: {error} (--debug shows where)"
    message = " ".join(message.split())
    return message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 3] + "..."
