"""SGLang's KV pool as planned beside what public servers printed.

    python benchmarks/sglang_servers.py [--servers tests/engines/sglang/public_servers.json] [--json OUT]

The servers' figures are max_total_num_tokens of their logs, or the means of SGLang's own test runs. Nothing is started.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from farspan.engines.registry import get_engine
from farspan.hardware.catalog import find_gpu
from farspan.models.config import load_model
from farspan.planner.request import PlanRequest

SERVERS = Path(__file__).parents[1] / "tests" / "engines" / "sglang" / "public_servers.json"


def main() -> None:
    """Print a line a server, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--servers", type=Path, default=SERVERS, help="the printed figures")
    parser.add_argument("--json", type=Path, help="where to write the rows")
    options = parser.parse_args()
    rows = []
    print("| model | GPUs | SGLang | tokens printed | planned | error | KV GiB off |")
    print("|---|---|---|---|---|---|---|")
    for server in json.loads(options.servers.read_text(encoding="utf-8")):
        plan = get_engine("sglang").plan(
            PlanRequest(
                load_model(server["model"], allow_network=False),
                find_gpu(server["gpu"]),
                server["tp"],
                server["tp"],
                server["context"],
                engine_version=server["version"],
                engine_flags=server["flags"],
                as_given=True,
            )
        )
        planned = plan.pools.get("full", 0)
        error = planned / server["tokens"] - 1
        gib = error * server["kv_gib"]
        rows.append({**server, "planned": planned, "error": error, "gib": gib})
        print(
            f"| {server['model']} | {server['tp']}x{server['gpu']} | {server['version']} | {server['tokens']:,} | "
            f"{planned:,} | {100 * error:+.2f} % | {gib:+.2f} |"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
