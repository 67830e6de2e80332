"""The user's own engine flags against the plan: whether they break it, and which of them does."""

from __future__ import annotations

from dataclasses import dataclass, replace

from farspan.errors import DoesNotFitError, InputError
from farspan.planner.engine_flags import flag_words, split_environment
from farspan.planner.levers import find_fix
from farspan.planner.memory_model import MemoryModel
from farspan.planner.plan import plan_engine
from farspan.planner.request import EnginePlan, PlanRequest


@dataclass(frozen=True, slots=True)
class CheckedPlan:
    """A plan with the user's flags in it.

    Args:
        plan: The plan.
        flags: The engine's arguments: the plan's, and where the plan could not take them in, the user's.
        notes: What the user must know, one sentence each.
    """

    plan: EnginePlan
    flags: tuple[str, ...]
    notes: tuple[str, ...] = ()


def check_overrides(request: PlanRequest, engine: MemoryModel, *, force: bool = False) -> CheckedPlan:
    """Plan a request with its flags, and refuse flags that break it.

    Args:
        request: What is asked, the user's flags included.
        engine: The engine.
        force: Go on all the same, with a note that says what breaks.

    Raises:
        InputError: The request is refused.
        DoesNotFitError: A flag breaks the plan, which the message names; or the memory is too small, and the message
            says what would make it fit.
    """
    try:
        plan = plan_engine(request, engine)
    except InputError as error:
        if not force or not request.engine_flags:
            raise
        # The engine may know what farspan does not: plan without, pass them on.
        plan = plan_engine(replace(request, engine_flags={}), engine)
        given, variables = split_environment(request.engine_flags)
        kept = [word for name, value in given.items() for word in flag_words(name, value)]
        plan = replace(plan, env={**plan.env, **variables})
        return CheckedPlan(plan, (*plan.flags, *kept), (f"The plan leaves out your flags: {error}.",))
    if plan.fits:
        return CheckedPlan(plan, plan.flags)
    culprits = _culprits(request, engine)
    if culprits:
        what = f"{' and '.join(culprits)} break{'s' if len(culprits) == 1 else ''} the plan: {plan.reason}"
        fix = f"drop {' and '.join(culprits)}, or add --force to start it all the same"
    else:
        what = f"{request.context:,} tokens do not fit on {engine.name} {plan.version}: {plan.reason}"
        pull = find_fix(request, plan, engine).pull
        changes = " and ".join(lever.change for lever in pull)
        if pull and pull[-1].plan.version != plan.version:
            changes += f" (--engine-version {pull[-1].plan.version})"
        fix = f"it fits with {changes}" if pull else "farspan plan shows what would help"
        fix += ", or add --force to start it all the same"
    if not force:
        raise DoesNotFitError(what, fix)
    if not plan.flags:
        raise DoesNotFitError(what, "not even --force can start it")
    return CheckedPlan(plan, plan.flags, (f"Started by --force: {what}.",))


def _culprits(request: PlanRequest, engine: MemoryModel) -> list[str]:
    """The flags without which the request fits: those that do it alone, else the fewest that do it together."""

    def fits_without(*names: str) -> bool:
        kept = {name: value for name, value in request.engine_flags.items() if name not in names}
        try:
            return plan_engine(replace(request, engine_flags=kept), engine).fits
        except InputError:
            return False

    every = list(request.engine_flags)
    alone = [name for name in every if fits_without(name)]
    if alone:
        return [_written(name, request) for name in alone]
    if not every or not fits_without(*every):
        return []
    blamed = every
    for name in every:
        others = [other for other in blamed if other != name]
        if fits_without(*others):
            blamed = others
    return [_written(name, request) for name in blamed]


def _written(name: str, request: PlanRequest) -> str:
    value = request.engine_flags[name]
    return name if value is None else f"{name} {value}"
