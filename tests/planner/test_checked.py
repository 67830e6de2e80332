"""The user's own flags against the plan."""

from __future__ import annotations

from dataclasses import replace

import pytest

from farspan.engines.registry import get_engine
from farspan.errors import DoesNotFitError, InputError
from farspan.hardware.catalog import find_gpu
from farspan.models.config import load_model
from farspan.planner.checked import check_overrides
from farspan.planner.request import PlanRequest

VLLM = get_engine("vllm")
REQUEST = PlanRequest(load_model("llama-4-scout"), find_gpu("H200"), 8, 8, 5 * 2**20, engine_version="0.12.0")
OFF = "--disable-hybrid-kv-cache-manager"


def test_a_flag_that_does_no_harm_goes_through() -> None:
    checked = check_overrides(replace(REQUEST, engine_flags={"--enforce-eager": None, "--seed": "1"}), VLLM)
    assert checked.plan.fits
    assert checked.flags[-3:] == ("--enforce-eager", "--seed", "1")
    assert checked.notes == ()


def test_the_flag_that_breaks_the_plan_is_named_alone() -> None:
    request = replace(REQUEST, engine_flags={"--enforce-eager": None, OFF: None})
    with pytest.raises(DoesNotFitError, match=rf"^{OFF} breaks the plan") as caught:
        check_overrides(request, VLLM)
    assert "--force" in caught.value.fix
    assert "--enforce-eager" not in str(caught.value)
    forced = check_overrides(request, VLLM, force=True)
    assert OFF in forced.flags
    assert forced.notes[0].startswith(f"Started by --force: {OFF} breaks the plan")
    with pytest.raises(DoesNotFitError, match=r"--gpu-memory-utilization 0\.3 breaks"):
        check_overrides(replace(REQUEST, engine_flags={"--gpu-memory-utilization": "0.3"}), VLLM)


def test_two_flags_that_break_it_together() -> None:
    request = replace(REQUEST, engine_flags={OFF: None, "--max-model-len": "4096"})
    with pytest.raises(DoesNotFitError, match=r"and --max-model-len 4096 break the plan"):
        check_overrides(request, VLLM)


def test_what_no_flag_is_to_blame_for_says_what_would_help() -> None:
    request = replace(REQUEST, context=10_000_000, engine_version="0.5.6.post2")
    with pytest.raises(DoesNotFitError, match="do not fit on sglang") as caught:
        check_overrides(request, get_engine("sglang"))
    assert "--engine-version 0.5.23" in caught.value.fix
    forced = check_overrides(request, get_engine("sglang"), force=True)
    assert not forced.plan.fits
    assert forced.notes


def test_flags_farspan_does_not_mirror_are_passed_on_by_force_alone() -> None:
    request = replace(REQUEST, engine_flags={"--enable-dbo": None})
    with pytest.raises(InputError, match="does not mirror"):
        check_overrides(request, VLLM)
    forced = check_overrides(request, VLLM, force=True)
    assert forced.flags[-1] == "--enable-dbo"
    assert "leaves out your flags" in forced.notes[0]
