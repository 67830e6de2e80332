"""List what farspan knows by name: models, GPUs, engine versions."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from farspan.engines.registry import all_engines
from farspan.errors import FarspanError
from farspan.hardware.catalog import find_gpu, gpus
from farspan.hardware.gpu import Gpu
from farspan.models import catalog
from farspan.models.config import load_model
from farspan.models.spec import ModelSpec
from farspan.planner.request import PlanRequest

# What each model is asked on to learn which engines plan it at all: a short request on GPUs that hold any of them.
_ASKED_GPU, _ASKED_COUNT, _ASKED_CONTEXT = "B200", 8, 8192


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model of the catalog.

    Args:
        name: Its name for `farspan plan` and `farspan serve`.
        aliases: Shorter names of it.
        hub_id: Owner and name on the Hugging Face hub.
        longest_context: Tokens of the longest context its config.json allows.
        engines: Engines that plan it, each in its newest version.
    """

    name: str
    aliases: tuple[str, ...]
    hub_id: str
    longest_context: int
    engines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KnownModels:
    """The models of the catalog that an engine plans, by name.

    Args:
        models: One entry a model.
    """

    models: tuple[KnownModel, ...]

    def to_json(self) -> list[dict[str, Any]]:
        """One object a model."""
        return [asdict(model) for model in self.models]


@dataclass(frozen=True, slots=True)
class KnownGpus:
    """The GPUs of the catalog.

    Args:
        gpus: One entry a card.
    """

    gpus: tuple[Gpu, ...]

    def to_json(self) -> list[dict[str, Any]]:
        """One object a card: bytes, bytes/s, operations/s."""
        return [asdict(gpu) for gpu in self.gpus]


@dataclass(frozen=True, slots=True)
class KnownVersions:
    """The versions of each engine whose arithmetic is mirrored.

    Args:
        versions: Engine to versions, the oldest first.
    """

    versions: dict[str, tuple[str, ...]]

    def to_json(self) -> dict[str, list[str]]:
        """Engine to versions, the oldest first."""
        return {engine: list(versions) for engine, versions in self.versions.items()}


def list_models() -> KnownModels:
    """List the models of the catalog that at least one engine plans. Any other model can be given by its config.json,
    its folder or its hub id."""
    short = catalog.aliases()
    found = []
    for entry in catalog.entries():
        spec = load_model(entry.name)
        engines = _engines_of(spec)
        if engines:
            names = short.get(entry.name, ())
            found.append(KnownModel(entry.name, names, entry.hub_id, spec.max_position_embeddings, engines))
    return KnownModels(tuple(found))


def list_gpus() -> KnownGpus:
    """List the GPUs farspan knows by name."""
    return KnownGpus(gpus())


def list_versions() -> KnownVersions:
    """List the versions of each engine that are planned exactly."""
    return KnownVersions({engine.name: engine.known_versions() for engine in all_engines()})


def _engines_of(spec: ModelSpec) -> tuple[str, ...]:
    """The engines that plan a model, whether it fits or not."""
    planned = []
    for engine in all_engines():
        ranks = min(_ASKED_COUNT, engine.most_ranks or _ASKED_COUNT)
        request = PlanRequest(
            model=spec, gpu=find_gpu(_ASKED_GPU), gpus=_ASKED_COUNT, tp=ranks, context=_ASKED_CONTEXT
        )
        try:
            engine.outline(request)
        except FarspanError:
            continue
        planned.append(engine.name)
    return tuple(planned)
