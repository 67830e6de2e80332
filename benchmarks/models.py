"""How many published models farspan reads, and how right it is: a folder of configs, with their facts if there are any.

    python benchmarks/models.py FOLDER [--facts FACTS.json] [--json OUT.json]

FOLDER holds config.json files under any names. FACTS is a JSON list of objects with `config` (a path from FACTS'
folder), `params` (parameters, or null) and `kv_bytes_per_token_bf16` (of all attention layers at TP 1, or null).
Prints one table; refusals and errors above 0.5 % are listed below it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from farspan.errors import FarspanError
from farspan.models.config import spec_from_config
from farspan.models.spec import KvDtype
from farspan.models.weights import total_parameters

_TOLERANCE = 0.005


@dataclass(frozen=True, slots=True)
class Reading:
    """One config.

    Args:
        name: The file's name.
        refusal: Why it was not read; empty when it was.
        assumed: Whether its layers are only assumed.
        parameter_error: Relative; None without a fact.
        kv_exact: Whether the KV bytes a token are the fact's; None without one.
    """

    name: str
    refusal: str = ""
    assumed: bool = False
    parameter_error: float | None = None
    kv_exact: bool | None = None


def _read(file: Path, fact: dict[str, Any]) -> Reading:
    try:
        spec = spec_from_config(json.loads(file.read_bytes()), file.stem)
    except FarspanError as error:
        return Reading(file.stem, refusal=error.message)
    parameters, kv_bytes = fact.get("params"), fact.get("kv_bytes_per_token_bf16")
    error = total_parameters(spec).total / parameters - 1 if parameters else None
    exact = spec.kv_bytes_per_token(KvDtype.BFLOAT16) == kv_bytes if kv_bytes is not None else None
    return Reading(file.stem, "", any(note.startswith("assumed") for note in spec.notes), error, exact)


def _table(readings: list[Reading], seconds: float) -> list[str]:
    read = [reading for reading in readings if not reading.refusal]
    errors = [abs(reading.parameter_error) for reading in read if reading.parameter_error is not None]
    kv = [reading.kv_exact for reading in read if reading.kv_exact is not None]
    rows = [
        ("configs", f"{len(readings)}"),
        ("read", f"{len(read)}"),
        ("read, and labelled assumed", f"{sum(reading.assumed for reading in read)}"),
        ("refused", f"{len(readings) - len(read)}"),
    ]
    if errors:
        right = sum(error <= _TOLERANCE for error in errors)
        rows += [
            ("parameters within 0.5 %", f"{right} of {len(errors)}"),
            ("parameters, median error", f"{statistics.median(errors):.4%}"),
        ]
    if kv:
        rows.append(("KV bytes a token exact", f"{sum(kv)} of {len(kv)}"))
    rows.append(("time to read one, mean", f"{seconds / len(readings) * 1000:.1f} ms"))
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]


def main() -> None:
    """Read every config and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--facts", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    facts: dict[Path, dict[str, Any]] = {}
    if options.facts:
        for fact in json.loads(options.facts.read_bytes()):
            facts[(options.facts.parent / fact["config"]).resolve()] = fact
    files = sorted(options.folder.rglob("*.json"))
    started = time.perf_counter()
    readings = [_read(file, facts.get(file.resolve(), {})) for file in files]
    print("\n".join(_table(readings, time.perf_counter() - started)))
    for reading in readings:
        if reading.refusal:
            print(f"refused {reading.name}: {reading.refusal}")
        elif reading.parameter_error is not None and abs(reading.parameter_error) > _TOLERANCE:
            print(f"parameters {reading.parameter_error:+.2%}: {reading.name}")
        elif reading.kv_exact is False:
            print(f"KV: {reading.name}")
    if options.json:
        options.json.write_text(json.dumps([asdict(reading) for reading in readings], indent=1))


if __name__ == "__main__":
    main()
