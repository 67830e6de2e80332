"""What the plug-in refuses before it touches anything: versions and shapes it does not know. No SGLang is needed."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from types import SimpleNamespace as Values

import pytest

from farspan.errors import InputError, UnsupportedError
from farspan.integrations.sglang import device_memory, plugin
from farspan.integrations.sglang.adapters import ADAPTERS, SETTINGS, adapter_for, check_seams, option, shape


def test_versions_it_does_not_know_are_refused() -> None:
    assert adapter_for("0.5.16").row(Values(req_pool_idx=3)) == 3
    assert adapter_for("0.5.23").row(Values(kv=Values(req_pool_idx=None))) is None
    with pytest.raises(
        UnsupportedError, match=r"does not know SGLang 0\.5\.17; use one of 0\.5\.16, 0\.5\.23"
    ):
        adapter_for("0.5.17")


def test_a_shape_it_does_not_know_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("forked_sglang")

    class Pool:
        def alloc(self, reqs: list[int], *, tier: int = 0) -> None: ...

    module.Pool = Pool  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "forked_sglang", module)
    assert shape("forked_sglang:Pool.alloc") == "(self, reqs, *, tier)"
    assert shape("forked_sglang:Pool.free") is None
    one = ADAPTERS["0.5.16"]
    check_seams(replace(one, shapes={"forked_sglang:Pool.alloc": "(self, reqs, *, tier)"}))
    with pytest.raises(UnsupportedError, match=r"takes \(self, reqs, \*, tier\) and the plug-in expects"):
        check_seams(replace(one, shapes={"forked_sglang:Pool.alloc": "(self, reqs)"}))
    with pytest.raises(UnsupportedError, match="takes nothing: it is missing"):
        check_seams(replace(one, shapes={"forked_sglang:Pool.free": "(self)"}))


@pytest.mark.parametrize("variable", [device_memory.QUIET_VARIABLE, device_memory.START_VARIABLE])
@pytest.mark.parametrize("text", ["-1", "soon", "inf", "nan", ""])
def test_a_time_that_is_none_is_refused(variable: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(InputError, match=f"{variable} is"):
        device_memory._seconds(variable, 1.0)


def test_a_device_without_elastic_memory_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="no elastic memory on the device meta"):
        device_memory.DeviceMemory("meta", 0, None, None)


def test_an_option_sglang_does_not_have_is_not_taken_for_off() -> None:
    for name in SETTINGS:
        with pytest.raises(UnsupportedError, match=f"has no option {name}"):
            option(Values(), name)


def test_the_entry_point_names_the_function() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    (value,) = project["entry-points"]["sglang.srt.plugins"].values()
    assert EntryPoint("farspan", value, "sglang.srt.plugins").load() is plugin.register
