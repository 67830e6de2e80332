"""Which budget a server joins: environment variables, so that they reach every process of an engine."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from farspan.errors import InputError
from farspan.sizes import parse_bytes

NAME_VARIABLE = "FARSPAN_BUDGET"
LIMIT_VARIABLE = "FARSPAN_BUDGET_LIMIT"
FLOOR_VARIABLE = "FARSPAN_BUDGET_FLOOR"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,48}")


@dataclass(frozen=True, slots=True)
class BudgetSettings:
    """A budget, and how a server joins it.

    Attributes:
        name: Of the budget; servers of the same one on the same device share it.
        limit: What all its members together may hold on a device, bytes; set by the first, None to leave it.
        floor: What this server may always hold, bytes.
    """

    name: str
    limit: int | None = None
    floor: int = 0

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InputError(
                f"{self.name!r} is not the name of a budget",
                "use letters, digits, dots and dashes, a letter or digit first, up to 49",
            )
        if self.limit is not None and self.floor > self.limit:
            raise InputError("the floor of a budget's member is above the budget's limit", "lower the floor")


def budget_settings(environment: Mapping[str, str] | None = None) -> BudgetSettings | None:
    """Return the budget that the environment names, None for none.

    Raises:
        InputError: A variable's value cannot be read, or one is set without FARSPAN_BUDGET.
    """
    environment = os.environ if environment is None else environment
    sizes = {}
    for variable in (LIMIT_VARIABLE, FLOOR_VARIABLE):
        if text := environment.get(variable, ""):
            if not environment.get(NAME_VARIABLE):
                raise InputError(
                    f"{variable} is set and {NAME_VARIABLE} is not", f"name the budget in {NAME_VARIABLE}"
                )
            try:
                sizes[variable] = parse_bytes(text)
            except InputError as error:
                raise InputError(f"{variable}: {error.message}", error.fix) from error
    name = environment.get(NAME_VARIABLE, "")
    return BudgetSettings(name, sizes.get(LIMIT_VARIABLE), sizes.get(FLOOR_VARIABLE, 0)) if name else None
