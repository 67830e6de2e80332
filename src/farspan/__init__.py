"""farspan sizes, serves and proves million-token LLM contexts.

One function a verb of the command line, of the verb's name: values as they are typed there, or objects, in; a typed
result out, whose `to_json()` is what the verb prints with --json. Beside them the library's own classes. Everything is
imported when it is first used, so that `import farspan` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# name -> module that defines it; `tests/verbs` holds this table against the command line and the stubs below.
_VERBS = {
    "bench": "farspan.verbs.bench",
    "compare": "farspan.verbs.compare",
    "demo": "farspan.verbs.demo",
    "doctor": "farspan.verbs.doctor",
    "export": "farspan.verbs.export",
    "import_run": "farspan.verbs.import_run",  # the verb is import, which Python keeps for itself
    "kv_limit": "farspan.verbs.kv_budget",  # the verb is kv, and farspan.kv a package
    "kv_status": "farspan.verbs.kv_budget",
    "kv_trim": "farspan.verbs.kv_budget",
    "list_gpus": "farspan.verbs.list_known",  # the verbs are gpus, models, versions; farspan.models is a package
    "list_models": "farspan.verbs.list_known",
    "list_versions": "farspan.verbs.list_known",
    "logs": "farspan.verbs.logs",
    "plan": "farspan.verbs.plan",
    "probe": "farspan.verbs.probe",
    "prompt": "farspan.verbs.prompt",
    "prove": "farspan.verbs.prove",
    "rehearse": "farspan.verbs.rehearse",
    "report": "farspan.verbs.report",
    "serve": "farspan.verbs.serve",
    "status": "farspan.verbs.status",
    "stop": "farspan.verbs.stop",
    "validate": "farspan.verbs.validate",
}
_LIBRARY = {
    "FarspanError": "farspan.errors",
    "Gpu": "farspan.hardware.gpu",
    "ModelSpec": "farspan.models.spec",
    "find_gpu": "farspan.hardware.catalog",
    "load_model": "farspan.models.config",
}
_EXPORTS = {**_VERBS, **_LIBRARY}

__all__ = [*_EXPORTS, "__version__", "kv"]

if TYPE_CHECKING:
    from farspan import kv as kv
    from farspan.errors import FarspanError as FarspanError
    from farspan.hardware.catalog import find_gpu as find_gpu
    from farspan.hardware.gpu import Gpu as Gpu
    from farspan.models.config import load_model as load_model
    from farspan.models.spec import ModelSpec as ModelSpec
    from farspan.verbs.bench import bench as bench
    from farspan.verbs.compare import compare as compare
    from farspan.verbs.demo import demo as demo
    from farspan.verbs.doctor import doctor as doctor
    from farspan.verbs.export import export as export
    from farspan.verbs.import_run import import_run as import_run
    from farspan.verbs.kv_budget import kv_limit as kv_limit
    from farspan.verbs.kv_budget import kv_status as kv_status
    from farspan.verbs.kv_budget import kv_trim as kv_trim
    from farspan.verbs.list_known import list_gpus as list_gpus
    from farspan.verbs.list_known import list_models as list_models
    from farspan.verbs.list_known import list_versions as list_versions
    from farspan.verbs.logs import logs as logs
    from farspan.verbs.plan import plan as plan
    from farspan.verbs.probe import probe as probe
    from farspan.verbs.prompt import prompt as prompt
    from farspan.verbs.prove import prove as prove
    from farspan.verbs.rehearse import rehearse as rehearse
    from farspan.verbs.report import report as report
    from farspan.verbs.serve import serve as serve
    from farspan.verbs.status import status as status
    from farspan.verbs.stop import stop as stop
    from farspan.verbs.validate import validate as validate


def __getattr__(name: str) -> Any:
    if name == "kv":
        return import_module("farspan.kv")
    if name not in _EXPORTS:
        raise AttributeError(f"module 'farspan' has no attribute {name!r}")
    value = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
