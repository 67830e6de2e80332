"""The engines farspan knows. A new one is a package of its own and a line here."""

from __future__ import annotations

import importlib

from farspan.engines.engine import Engine
from farspan.errors import NotFoundError

# Name -> the module whose `ENGINE` is the engine, imported when it is asked for. The order is that of every list.
ENGINE_MODULES = {
    "vllm": "farspan.engines.vllm.engine",
    "sglang": "farspan.engines.sglang.engine",
    "builtin": "farspan.engines.builtin.engine",
}


def engine_names() -> tuple[str, ...]:
    """The names of all engines; imports none of them."""
    return tuple(ENGINE_MODULES)


def get_engine(name: str) -> Engine:
    """The engine of a name, in any case.

    Raises:
        NotFoundError: There is none.
    """
    module = ENGINE_MODULES.get(name.strip().lower())
    if module is None:
        import difflib

        near = difflib.get_close_matches(name.lower(), ENGINE_MODULES, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise NotFoundError(
            f"{name!r} is not an engine farspan knows", f"{meant}choose one of {', '.join(ENGINE_MODULES)}"
        )
    engine = importlib.import_module(module).ENGINE
    assert isinstance(engine, Engine)
    return engine


def all_engines() -> tuple[Engine, ...]:
    """Every engine."""
    return tuple(get_engine(name) for name in ENGINE_MODULES)


def find_served(owned_by: str | None) -> Engine | None:
    """The engine a server names itself after under `owned_by` of its models, or by farspan's name for it; None when
    farspan does not know it."""
    wanted = (owned_by or "").lower()
    return next((engine for engine in all_engines() if wanted in (engine.owned_by, engine.name)), None)
