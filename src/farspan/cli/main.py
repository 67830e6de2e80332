"""The `farspan` command: finds the verb's module, runs it, and turns failures into exit codes.

Verbs are imported only when called, so that `farspan plan` never pays for what `farspan bench` needs.
"""

from __future__ import annotations

import importlib
import keyword
import sys

import click

from farspan import __version__
from farspan.errors import FarspanError
from farspan.escape_terminal import printable

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
    "import": "Read another tool's result file into a run folder.",
    "plan": "Say what fits, with which flags, and how long it takes, before anything is launched.",
    "probe": "Write the recall checkpoint, a tiny Llama 4 that copies back any needle.",
    "prompt": "Build one prompt of exactly N tokens.",
    "prove": "Serve, measure and examine a model on engine after engine, and report.",
    "logs": "Show the log of a server farspan has started.",
    "report": "Turn run folders into one HTML page and a Markdown table.",
    "serve": "Start a server as planned, wait until it answers, and explain when it does not.",
    "status": "Show the servers farspan has started, and how they are.",
    "stop": "End servers farspan has started.",
}


class LazyGroup(click.Group):
    """A click group that imports a verb's module only when that verb is called."""

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

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the verbs from the table, importing none of them."""
        with formatter.section("Verbs"):
            formatter.write_dl(sorted(VERBS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="farspan")
def group() -> None:
    """Size, serve and prove million-token LLM contexts.

    Sizes are written 10k, 2M (decimal) or 2Mi (binary). Every verb takes --json and --help.
    """


def main() -> None:
    """Run the command line and exit: 0 good, 1 the verb's own failure, 2 bad input, 130 interrupted."""
    try:
        result = group.main(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(EXIT_BAD_INPUT)
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_BAD_INPUT)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("farspan: interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except FarspanError as error:
        # A message may quote a server; control characters stay out of the terminal.
        click.echo(f"farspan: {printable(str(error))}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(EXIT_FAILED)
    sys.exit(result if isinstance(result, int) else EXIT_OK)
