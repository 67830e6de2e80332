"""What keeps a rank from being served, in the words of the deployment that it is a rank of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from farspan.engines.engine import Engine
from farspan.errors import DoesNotFitError, InputError, UnsupportedError
from farspan.hardware.gpu import Gpu
from farspan.models.shard.config_form import ConfigForm
from farspan.models.shard.rank_config import RankShard, shard_config
from farspan.planner.engine_flags import parse_engine_flags
from farspan.planner.weights_fit import fewest_ranks
from farspan.sizes import format_bytes

_DOUBLINGS = 5


def is_too_heavy(shard: RankShard, gpu: Gpu) -> bool:
    """Whether the weights of a rank alone are more than a GPU holds."""
    return fewest_ranks(shard.spec, gpu) != 1


def check_divided_by_options(engine: Engine, flags: Sequence[str]) -> None:
    """Refuse flags that divide the deployment: its rank runs alone, and the options of the rehearsal say how.

    Raises:
        InputError: One is among the flags; the option in its place is named.
    """
    given = parse_engine_flags(flags)
    for names, option in ((engine.tensor_parallel_flags, "--tp"), (engine.pipeline_flags, "--pp")):
        for name in names:
            if name in given:
                raise InputError(
                    f"{name} divides the deployment, and its rank runs alone",
                    f"say it with {option}{' ' + value if (value := given[name]) else ''}, before the --",
                )


def name_rank(error: DoesNotFitError | InputError, shard: RankShard) -> DoesNotFitError | InputError:
    """The same error, with the model's name for that of the rank's folder."""
    name = f"the rank of {shard.whole.name}"
    said = (re.sub(r"(?<![\w/-])shard(?![\w/-])", name, text) for text in (error.message, error.fix))
    return type(error)(*said)


def explain_heavy_rank(
    config: Mapping[str, Any], shard: RankShard, gpu: Gpu, form: ConfigForm, ignore_fields: Sequence[str]
) -> DoesNotFitError:
    """Say by how much it is too heavy, and over how many ranks it would not be.

    Args:
        config: The whole model's config.json.
        shard: The rank that is too heavy.
        gpu: The GPU it is to run on.
        form: How the engine reads a rank's config.
        ignore_fields: As `shard_config` takes them.
    """
    name, division = shard.whole.name, shard.division
    fix = "name a larger GPU with --gpus, or keep the weights smaller with --weights"
    for ranks in (division.tp * 2**power for power in range(1, _DOUBLINGS + 1)):
        try:
            smaller = shard_config(
                config, name, replace(division, tp=ranks), form=form, ignore_fields=ignore_fields
            )
        except UnsupportedError:
            continue
        if not is_too_heavy(smaller, gpu):
            fix = f"divide it further, with --tp {ranks}, or keep the weights smaller with --weights"
            break
    return DoesNotFitError(
        f"one rank of {name} at {division.text} has {format_bytes(shard.weight_bytes)} of weights, and one {gpu.name} "
        f"has {format_bytes(gpu.memory_bytes)}",
        fix,
    )
