"""Options of the verbs that start a server."""

from __future__ import annotations

import click

force_option = click.option(
    "--force", is_flag=True, help="Start although it does not fit, or a flag breaks the plan."
)
ready_limit_option = click.option(
    "--ready-limit", type=float, help="Longest start, s.  [default: 3 x planned + 600]"
)
