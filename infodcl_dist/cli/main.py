"""`infodcl-dist`: the commands, and how they end. 0: done; 2: the user must change something; 1: a fault of ours."""

import os
import sys
from importlib import import_module

import click

from infodcl_dist import __version__
from infodcl_dist.base.console import tells_error
from infodcl_dist.base.errors import UserError

# Each defined by the module of its name in this folder, imported when the command is used.
COMMANDS = (
    *("prepare", "synthesize", "metadata", "train", "evaluate", "export", "recommend", "propagate", "tune"),
    *("report", "sample", "plan", "bench", "config", "doctor"),
)


class _Commands(click.Group):
    """Commands that are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"infodcl_dist.cli.{name}"), name)
        return command


@click.command(cls=_Commands)
@click.version_option(__version__)
def infodcl_dist() -> None:
    """Distributed, large-scale training of InfoDCL."""


def main(command: click.Command = infodcl_dist) -> None:
    """Runs a command and ends the process with its status."""
    sys.exit(run(command, sys.argv[1:]))


def run(command: click.Command, arguments: list[str]) -> int:
    """Runs a command; a `UserError` becomes one `error:` line on standard error (one rank's alone) and status 2."""
    try:
        _refuse_not_utf8(arguments)
        with command.make_context(command.name, list(arguments)) as context:
            command.invoke(context)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return 2
    except (UserError, click.ClickException) as error:
        message = error.format_message() if isinstance(error, click.ClickException) else str(error)
        if tells_error():
            print(f"error: {' '.join(message.split())}", file=sys.stderr)
        return 2
    except click.exceptions.Exit as status:
        return status.exit_code
    except (click.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output left (`… | head`): nothing is wrong, and nothing more can be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 0


def _refuse_not_utf8(arguments: list[str]) -> None:
    """Neither Arrow nor JSON takes a path that is not UTF-8."""
    for argument in arguments:
        text = os.fsencode(argument).decode(errors="replace")
        if text != argument:
            raise UserError(f"{text}: is not UTF-8; rename the file or folder")
