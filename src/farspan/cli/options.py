"""How option values that several verbs take are read."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click
import orjson
from click.core import ParameterSource

from farspan.engines.engine import Engine
from farspan.engines.registry import engine_names, get_engine
from farspan.errors import InputError
from farspan.launch.runtime_names import RUNTIMES, parse_runtime
from farspan.models.config import WEIGHT_FORMATS, parse_weight_format

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


Value = TypeVar("Value")


class KnownWord(click.ParamType[Value], ABC):
    """One of some words, which help shows and a shell can complete."""

    @abstractmethod
    def words(self) -> Iterable[str]:
        """What there is."""

    @abstractmethod
    def parse(self, value: str) -> Value:
        """The value of a word, or of another spelling of one.

        Raises:
            InputError: There is no such word; it says what there is.
        """

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:  # noqa: ARG002
        """What help shows in the value's place."""
        return f"[{'|'.join(self.words())}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Value:
        """The value of a word; refused with what there is."""
        try:
            return self.parse(value)
        except InputError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem]:
        """Complete a word."""
        return _complete(self.words(), incomplete)


class EngineName(KnownWord[Engine]):
    """An engine by its name; the value is its object."""

    name = "engine"

    def words(self) -> Iterable[str]:
        """The engines."""
        return engine_names()

    def parse(self, value: str) -> Engine:
        """The engine of a name."""
        return get_engine(value)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Engine:
        """The engine of a name; refused with what there is."""
        if isinstance(value, Engine):
            return value
        name, at, version = value.partition("@")
        if "," in value:
            self.fail(
                f"{value!r} is several engines: name one; farspan plan without --engine has all", param, ctx
            )
        if at and name.lower() in engine_names():
            self.fail(
                f"{value!r} is an engine and a version: write {name} --engine-version {version}", param, ctx
            )
        return super().convert(value, param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Complete an engine's name, in any case."""
        return super().shell_complete(ctx, param, incomplete.lower())


class RuntimeName(KnownWord[str]):
    """A way to run a server, in any case; k8s means kubernetes."""

    name = "runtime"

    def words(self) -> Iterable[str]:
        """The runtimes."""
        return RUNTIMES

    def parse(self, value: str) -> str:
        """The runtime's one name."""
        return parse_runtime(value)


class ModelName(click.ParamType[str]):
    """A model: a name of the catalog, which a shell can complete; a file, a folder or a hub id, which it leaves."""

    name = "model"

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem]:
        """Complete a model's name; files where it is the beginning of none."""
        from farspan.models import catalog

        return _complete(catalog.offered_names(), incomplete.lower()) or _items([incomplete], "file")


class WeightFormat(KnownWord[str]):
    """A format of weights, as people write it; the value is one of `WEIGHT_FORMATS`."""

    name = "weights"

    def words(self) -> Iterable[str]:
        """The formats."""
        return WEIGHT_FORMATS

    def parse(self, value: str) -> str:
        """The format of a spelling."""
        return parse_weight_format(value)


class GpuNames(click.ParamType[str]):
    """GPUs such as 8xH200; a shell can complete the card's name."""

    name = "gpus"

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem]:
        """Complete the name behind the number."""
        from farspan.hardware.catalog import gpus

        number, card = re.fullmatch(r"((?:.*,)?(?:\d+[xX*])?)(.*)", incomplete, re.DOTALL).groups()  # type: ignore[union-attr]
        names = [gpu.name for gpu in gpus()] + ([] if number else ["detect"])
        return _items([f"{number}{name}" for name in names if name.lower().startswith(card.lower())])


def _complete(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return _items([name for name in names if name.startswith(incomplete)])


def _items(names: Iterable[str], kind: str = "plain") -> list[CompletionItem]:
    """Names as a shell takes them; a verb that runs needs none."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(name, type=kind) for name in names]


def parse_fractions(text: str) -> tuple[float, ...]:
    """Parse a comma-separated list of fractions such as `0.1,0.9` or `10%,90%`.

    Raises:
        InputError: It is not a list of numbers from 0 to 1.
    """
    try:
        fractions = tuple(_fraction(part) for part in text.split(",") if part.strip())
    except ValueError:
        fractions = ()
    if not fractions or not all(0 <= fraction <= 1 for fraction in fractions):
        raise InputError(f"{text!r} is not a list of fractions from 0 to 1", "write it as 0.1,0.9 or 10%,90%")
    return fractions


def parse_fraction(text: str) -> float:
    """Parse one fraction such as `0.3` or `30%`.

    Raises:
        InputError: It is no number.
    """
    try:
        return _fraction(text)
    except ValueError:
        raise InputError(f"{text!r} is not a fraction", "write it as 0.3 or 30%") from None


def _fraction(text: str) -> float:
    number, percent, rest = text.strip().partition("%")
    if rest:
        raise ValueError
    return float(number) / (100 if percent else 1)


def parse_json_object(text: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        InputError: It is not JSON, or not an object.
    """
    try:
        parsed = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InputError(f"{text!r} is not JSON ({error})", 'write it as {"top_k": 1}') from error
    if not isinstance(parsed, dict):
        raise InputError(f"{text!r} is not a JSON object", 'write it as {"top_k": 1}')
    return parsed


def parse_percentiles(text: str) -> tuple[float, ...]:
    """Parse a comma-separated list of percentiles such as `50,90,99.9`; order is kept.

    Raises:
        InputError: It is not a list of numbers between 0 and 100.
    """
    try:
        percentiles = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        percentiles = ()
    if not percentiles or not all(0 < percentile < 100 for percentile in percentiles):
        raise InputError(f"{text!r} is not a list of percentiles", "write it as 50,90,99")
    return tuple(dict.fromkeys(percentiles))


def parse_rate(text: str) -> float:
    """Parse a number above 0; `inf` and, for a spacing, `constant` are infinity.

    Raises:
        InputError: It is not such a number.
    """
    try:
        rate = math.inf if text == "constant" else float(text)
    except ValueError:
        rate = math.nan
    if not rate > 0:
        raise InputError(f"{text!r} is not a number above 0", "write it as 0.5")
    return rate


_GOAL = re.compile(r"([a-z0-9]+):([0-9.]+)(ms|s)?")


def parse_goals(text: str) -> dict[str, float]:
    """Parse times to stay within, such as `ttft:2000,tpot:50` in milliseconds or `ttft:2s`; seconds are returned.

    Raises:
        InputError: It is not a list of such times.
    """
    goals: dict[str, float] = {}
    for part in filter(None, re.split(r"[,\s]+", text)):
        match = _GOAL.fullmatch(part)
        try:
            value = float(match.group(2)) if match else math.nan
        except ValueError:
            value = math.nan
        if match is None or math.isnan(value):
            raise InputError(f"{part!r} is not a time to stay within", "write it as ttft:2000 or ttft:2s")
        goals[match.group(1)] = value if match.group(3) == "s" else value / 1000
    return goals


def parse_engines(text: str) -> dict[str, str]:
    """Parse servers to compare, such as `vllm@http://a:8000,sglang@http://b:30000`; order is kept.

    Raises:
        InputError: It is not a list of names and addresses, or a name comes twice.
    """
    engines: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, at, url = part.partition("@")
        if not at or not url or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or name in engines:
            raise InputError(
                f"{part!r} is not a server to compare, or its name comes twice",
                "write them as vllm@http://host:8000,sglang@http://host:30000",
            )
        engines[name] = url
    if not engines:
        raise InputError(f"{text!r} names no server", "write it as vllm@http://host:8000")
    return engines


def is_given(name: str) -> bool:
    """Tell whether the user gave an option of the verb that runs, on the command line or in the environment."""
    return click.get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT
