"""The `farspan` command: finds the verb's module, runs it, and turns failures into exit codes.

Verbs are imported only when called, so that `farspan plan` never pays for what `farspan bench` needs.
"""

from __future__ import annotations

import importlib
import keyword
import sys
from typing import TYPE_CHECKING, Any

import click

from farspan import __version__
from farspan.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

# verb -> one line of help; the module is farspan.cli.<verb> (import_ for import, which Python keeps to itself) and
# holds a click command named `command`.
VERBS = {
    "bench": "Send exact-length prompts to a server and measure honestly.",
    "compare": "Compare two runs: ratios with confidence intervals, and thresholds for CI.",
    "demo": "Prove a context end to end on this machine, no GPU needed.",
    "doctor": "Say what happened to a server, why, and what to change, from its log.",
    "export": "Write a run under the names of vllm bench serve.",
    "gpus": "List the GPUs farspan knows by name.",
    "import": "Read another tool's result file into a run folder.",
    "kv": "Show and move the memory that servers on one GPU share.",
    "plan": "Say what fits, with which flags, and how long it takes, before anything is launched.",
    "probe": "Write the recall checkpoint, a tiny Llama 4 that copies back any needle; or check a server of it.",
    "prompt": "Build one prompt of exactly N tokens.",
    "prove": "Serve, measure and examine a model on engine after engine, and report.",
    "logs": "Show the log of a server farspan has started.",
    "models": "List the models farspan knows by name.",
    "rehearse": "Try a deployment of eight GPUs out on one, and hold the plan against it.",
    "report": "Turn run folders into one HTML page and a Markdown table.",
    "serve": "Start a server as planned, wait until it answers, and explain when it does not.",
    "status": "Show the servers farspan has started, and how they are.",
    "stop": "End servers farspan has started.",
    "validate": "Hold a plan against what its server printed, figure by figure.",
    "versions": "List the engine versions farspan plans exactly.",
}

# What people type for a verb that is called something else.
_MEANT = {
    "benchmark": "bench",
    "check": "doctor",
    "diagnose": "doctor",
    "engines": "versions",
    "help": "--help",
    "launch": "serve",
    "measure": "bench",
    "run": "serve",
    "size": "plan",
    "start": "serve",
    "version": "--version",
}


class LazyGroup(click.Group):
    """A click group that imports a verb's module only when that verb is called."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read what stands before the verb; a NUL, of which paths make a ValueError, is refused here for all verbs."""
        if any("\0" in word for word in args):
            raise InputError(
                "a word of the command line holds a NUL, which no program can be given", "leave it out"
            )
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the verbs, sorted."""
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import and return one verb's command, or None when there is no such verb."""
        if cmd_name not in VERBS:
            return None
        module = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name
        command = importlib.import_module(f"farspan.cli.{module}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb that is called; one that does not exist is refused with the nearest."""
        name = args[0]
        if name not in VERBS and not name.startswith("-"):
            raise NotFoundError(f"there is no verb {name!r}", _suggest_verb(name))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb. A reader that closes the pipe, as head does, ends it quietly: it has all it wanted."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            return EXIT_OK

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete a verb's name, importing none of them."""
        from click.shell_completion import CompletionItem

        verbs = [
            CompletionItem(name, help=text) for name, text in VERBS.items() if name.startswith(incomplete)
        ]
        return verbs or click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the verbs from the table, importing none of them."""
        with formatter.section("Verbs"):
            formatter.write_dl(sorted(VERBS.items()))


def _suggest_verb(name: str) -> str:
    import difflib

    lower = name.lower()
    close = [_MEANT[lower]] if lower in _MEANT else difflib.get_close_matches(lower, VERBS, n=1)
    hint = f"did you mean farspan {close[0]}? " if close else ""
    return f"{hint}farspan --help lists the verbs"


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="farspan")
def group() -> None:
    """Size, serve and prove million-token LLM contexts.

    Sizes are written 10k, 2M (decimal) or 2Mi (binary). Every verb takes --json and --help.
    """


def main() -> None:
    """Run the command line and exit: 0 good, 1 the verb's own failure, 2 bad input, 130 interrupted."""
    from farspan.cli import failures

    failures.prepare_streams()
    as_json = "--json" in sys.argv[1:]
    try:
        result = group.main(prog_name="farspan", standalone_mode=False)
        failures.flush_output()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(EXIT_BAD_INPUT)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("farspan: interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        failure = failures.describe(error)
        if failure is None:
            raise
        failures.report(failure, as_json=as_json)
        sys.exit(failure.exit_code)
    sys.exit(result if isinstance(result, int) else EXIT_OK)
