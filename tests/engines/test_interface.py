"""What every engine must say for itself, asked of each that is registered."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from farspan.engines.command import Listen, Nodes
from farspan.engines.engine import Engine
from farspan.engines.registry import all_engines, engine_names, find_served, get_engine
from farspan.errors import FarspanError, InputError, NotFoundError, UnsupportedError
from farspan.hardware.catalog import find_gpu
from farspan.models.config import load_model
from farspan.planner.request import PlanRequest
from farspan.planner.versions import version_key

ENGINES = all_engines()
REQUEST = PlanRequest(load_model("llama-3.1-8b"), find_gpu("H200"), 1, 1, 100_000)
LISTEN = Listen("127.0.0.1", 8000, "m", with_key=True)


def test_names_tell_engines_apart() -> None:
    assert [engine.name for engine in ENGINES] == list(engine_names())
    for said in ("name", "title", "owned_by", "key_variable", "metric_prefix"):
        assert len({getattr(engine, said) for engine in ENGINES}) == len(ENGINES), said


@pytest.mark.parametrize("engine", ENGINES, ids=engine_names())
def test_an_engine_is_found_by_what_servers_say(engine: Engine) -> None:
    assert get_engine(engine.name) is engine
    assert find_served(engine.owned_by.upper()) is engine
    assert find_served(engine.name) is engine
    assert find_served("") is find_served(None) is None


@pytest.mark.parametrize("engine", ENGINES, ids=engine_names())
def test_the_newest_version_is_what_an_unversioned_plan_means(engine: Engine) -> None:
    keys = [version_key(version) for version in engine.known_versions()]
    assert keys == sorted(set(keys))
    plan = engine.plan(REQUEST)
    assert plan.version == engine.newest_version == engine.known_versions()[-1]
    assert engine.plan(replace(REQUEST, engine_version=engine.newest_version)).fits is plan.fits is True
    with pytest.raises(InputError, match="is not an engine version"):
        engine.outline(replace(REQUEST, engine_version="newest"))
    nearest = engine.plan(replace(REQUEST, engine_version="999.0.0", accept_nearest_version=True))
    said = f"{engine.name} 999.0.0 is not known: planned as {engine.newest_version}"
    assert any(warning.startswith(said) for warning in nearest.warnings)


@pytest.mark.parametrize("engine", ENGINES, ids=engine_names())
def test_plan_and_outline_agree_and_the_plan_says_what_to_type(engine: Engine) -> None:
    plan, outline = engine.plan(REQUEST), engine.outline(REQUEST)
    assert (plan.engine, plan.fits, plan.flags, plan.capacity_tokens) == (
        engine.name,
        outline.fits,
        outline.flags,
        outline.capacity_tokens,
    )
    assert plan.program == engine.shell_program
    assert "{model}" in plan.program
    assert len(plan.ledger) > 0 == len(outline.ledger)


@pytest.mark.parametrize("engine", ENGINES, ids=engine_names())
def test_the_key_reaches_a_server_through_its_environment_alone(engine: Engine) -> None:
    command = engine.command("/m", (engine.context_flag, "1000"), {"A": "1"}, LISTEN)
    assert command.secrets == (engine.key_variable,)
    assert engine.key_variable not in command.env
    assert command.env == {"A": "1", **engine.environment}
    assert command.arguments[command.arguments.index(engine.context_flag) + 1] == "1000"
    assert engine.command("/m", (), {}, LISTEN, python="/v/bin/python").program[0] == "/v/bin/python"
    second = Nodes(2, "1", "10.0.0.1")
    if engine.most_ranks == 1:
        with pytest.raises(UnsupportedError, match="one machine"):
            engine.command("/m", (), {}, LISTEN, second)
    else:
        assert "10.0.0.1" in " ".join(engine.command("/m", (), {}, LISTEN, second).argv)


@pytest.mark.parametrize("engine", ENGINES, ids=engine_names())
def test_metrics_levers_lines_and_rules_are_this_engines(engine: Engine) -> None:
    prefix = engine.metric_prefix.decode()
    sources = [source for several in engine.metric_sources().values() for source in several]
    assert sources
    assert all(source.name.startswith(prefix) for source in sources)
    changes = [candidate.change for candidate in engine.levers()]
    assert len(changes) == len(set(changes)) > 0
    assert engine.log_patterns()
    identifiers = [rule.id for rule in engine.doctor_rules()]
    assert len(identifiers) == len(set(identifiers))


def test_what_is_no_engine_is_not_found() -> None:
    with pytest.raises(NotFoundError, match=r"did you mean sglang\? choose one of vllm, sglang, builtin"):
        get_engine("SGLag")
    with pytest.raises(FarspanError, match="choose one of"):
        get_engine("tgi")


def test_to_name_engines_imports_no_memory_model() -> None:
    """bench, doctor and report ask who serves; that must not cost what a plan costs."""
    code = (
        "import sys; from farspan.engines.registry import find_served; find_served('x');"
        "print(*(name for name in sys.modules if name.startswith(('farspan.models', 'farspan.planner'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
