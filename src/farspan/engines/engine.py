"""What an engine is to farspan: one object that holds, or finds when asked, all that is known of it.

A package of `farspan.engines` has a module `engine` with one object, `ENGINE`, of a subclass of `Engine`; one line of
`farspan.engines.registry` names it. Nothing outside of that package may know the engine by name.

What is cheap to say stands in the fields. What takes modules to say (the memory model, the grammar of its log) stands
in methods that import them when called: a plan must answer in 0.3 s.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from farspan.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    from farspan.engines.command import EngineCommand, Listen, Nodes
    from farspan.engines.logs.line_pattern import LinePattern
    from farspan.engines.logs.rule import Rule, StateRule
    from farspan.engines.metric_source import Measure, MetricSource
    from farspan.models.shard.config_form import ConfigForm
    from farspan.planner.lever_candidate import LeverCandidate
    from farspan.planner.request import EnginePlan, PlanRequest

_EMPTY: Mapping[str, Any] = MappingProxyType({})


class StartSeconds(NamedTuple):
    """How long the phases of a start take beside reading the weights, in seconds.

    Args:
        engine: From the process's start to the first byte of weights: imports, configuration, the ranks' meeting.
        compile: Compiling kernels; left out of an eager start.
        profile: The run that measures what a step takes.
        graphs: Capturing CUDA graphs; left out of an eager start.
        basis: Where the figures come from, in words that end a sentence.
    """

    engine: float
    compile: float
    profile: float
    graphs: float
    basis: str


class FigureKind(StrEnum):
    """What a figure of a start is, which says how near a plan must come to it."""

    MEMORY = "memory"  # GiB of one GPU
    ROOM = "room"  # tokens or requests that the memory for KV holds
    SETTING = "setting"  # follows from the arguments alone


class StartFigure(NamedTuple):
    """A figure an engine prints while it starts and a plan predicts.

    Args:
        logged: Its name among the figures of the log reader.
        means: What it is, with its unit.
        printed: What its name begins with among the plan's printed figures; empty where it is none of them.
        kind: What it is.
        ledger: What the names of the ledger's lines begin with that it is the sum of or, where it is printed, that it
            rests on.
    """

    logged: str
    means: str
    printed: str
    kind: FigureKind = FigureKind.MEMORY
    ledger: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Engine(ABC):
    """All that is known of one inference engine. Immutable; two engines are the same when they are one object.

    Args:
        name: In options, documents and records: lower case, one word.
        title: As people write it.
        owned_by: What its /v1/models says under `owned_by`.
        distributions: Python distributions that carry it, the likeliest first; empty when it comes with farspan.
        modules: Python modules it needs where it comes with farspan, which has them as an extra.
        key_variable: Environment variable its API key is handed over in.
        context_flag: Its flag for the longest request.
        data_parallel_flags: Its spellings of the number of data-parallel replicas, the long one first; empty when it
            has none.
        tensor_parallel_flags: Its spellings of the number of tensor-parallel ranks, the long one first.
        pipeline_flags: Its spellings of the number of pipeline stages, the long one first; empty when none is planned.
        memory_share_flag: Its flag for the share of a GPU's memory it may plan with; empty when it has none.
        memory_share: That share where the flag is not given, in most versions; None where it is worked out.
        step_tokens_flag: Its flag for the most prompt tokens of one step; empty when it has none.
        eager_flags: Flags that switch compiling and CUDA graphs off.
        cpu_flags: What makes it run without a GPU, unless the first of them is given by hand; empty when its CPU build
            needs no telling.
        most_ranks: Most tensor-parallel ranks; None when only the model limits them.
        logged_flags: Settings, as its log prints them, that change what it allocates: the doctor plans a log's
            server with them.
        logged_defaults: Those of them that say nothing at this value; some versions lack the flag altogether.
        environment: Variables farspan always starts it with.
        start_seconds: How long a start takes.
        start_figures: What its start prints that the plan predicts, in the order they are shown.
        kv_figure: Which of them, as logged, says how much room the KV cache got; empty where none does.
        kernel_folder: Where its image keeps the kernels it compiles; empty where keeping them saves nothing.
        shell_program: What a person types before the planned flags; `{model}` stands for the model.
        metric_prefix: What the names of its metrics begin with.
        metrics_hint: How to switch its metrics on, where they are off by default; else empty.
        token_id_fields: Fields of a completion by which its answer's token ids come with its text, and nothing of the
            prompt; empty when there are none.
        dummy_weight_flags: What makes it fill weights with numbers of its own instead of reading them; empty when it
            always reads them, and cannot be rehearsed.
        detailed_log: Variables that make its log tell the parts of its memory.
    """

    name: str
    title: str
    owned_by: str
    key_variable: str
    context_flag: str
    start_seconds: StartSeconds
    shell_program: tuple[str, ...]
    metric_prefix: bytes
    distributions: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    data_parallel_flags: tuple[str, ...] = ()
    tensor_parallel_flags: tuple[str, ...] = ()
    pipeline_flags: tuple[str, ...] = ()
    memory_share_flag: str = ""
    memory_share: float | None = None
    step_tokens_flag: str = ""
    eager_flags: tuple[str, ...] = ()
    cpu_flags: tuple[str, ...] = ()
    most_ranks: int | None = None
    logged_flags: tuple[str, ...] = ()
    logged_defaults: Mapping[str, object] = field(default_factory=lambda: _EMPTY)
    environment: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    start_figures: tuple[StartFigure, ...] = ()
    kv_figure: str = ""
    kernel_folder: str = ""
    metrics_hint: str = ""
    token_id_fields: Mapping[str, object] = field(default_factory=lambda: _EMPTY)
    dummy_weight_flags: tuple[str, ...] = ()
    detailed_log: Mapping[str, str] = field(default_factory=lambda: _EMPTY)

    # Versions.

    @abstractmethod
    def known_versions(self) -> tuple[str, ...]:
        """The versions whose arithmetic is mirrored, the oldest first; never empty."""

    @property
    def newest_version(self) -> str:
        """The version that is meant where none is named: the newest planned one."""
        return self.known_versions()[-1]

    # The memory model.

    @abstractmethod
    def plan_server(self, request: PlanRequest) -> EnginePlan:
        """What one server would do with a request.

        Where a default keeps the request from fitting and a flag cures it, the plan sets that flag and lists it under
        `added`, unless `request.as_given`; a flag given by hand is never changed.

        Raises:
            InputError: The version is unknown, or a flag, the model or a size is refused or not mirrored.
        """

    @abstractmethod
    def outline_server(self, request: PlanRequest) -> EnginePlan:
        """The plan of `plan_server` without ledger and remarks, as fast as it can be: for sweeps and searches.

        Raises:
            InputError: As `plan_server`.
        """

    def plan(self, request: PlanRequest) -> EnginePlan:
        """What this engine would do with a request, data-parallel replicas taken into account.

        Raises:
            InputError: As `plan_server`; or the replicas are not what can be planned.
        """
        return replace(self._of_replicas(request, outline=False), program=self.shell_program)

    def outline(self, request: PlanRequest) -> EnginePlan:
        """The plan of `plan` without ledger and remarks.

        Raises:
            InputError: As `plan`.
        """
        return self._of_replicas(request, outline=True)

    def _of_replicas(self, request: PlanRequest, *, outline: bool) -> EnginePlan:
        from farspan.planner.weights_fit import with_weights_checked

        server = self.outline_server if outline else self.plan_server
        if not request.engine_flags:
            return with_weights_checked(server(request), request)
        request = self.spell_out(request)

        def planner(one: PlanRequest) -> EnginePlan:
            plan = server(one)
            return plan if self.quantizes_by_layer(one, plan.version) else with_weights_checked(plan, one)

        from farspan.planner.replicas import plan_replicas

        return plan_replicas(request, self, planner)

    def spell_out(self, request: PlanRequest) -> PlanRequest:
        """Return the question with flags under their whole names, where the engine takes shortened ones."""
        return request

    def quantizes_by_layer(self, request: PlanRequest, version: str) -> bool:  # noqa: ARG002
        """Whether the weights are quantized while loading, each layer before the next is there: the checkpoint's own
        size need not fit then."""
        return False

    def check_replicas(self, request: PlanRequest) -> None:  # noqa: B027
        """Refuse data-parallel replicas that are not servers independent of each other.

        Raises:
            UnsupportedError: They share work, which is not mirrored.
        """

    def grouped(self, request: PlanRequest, tp: int, groups: int) -> PlanRequest | None:  # noqa: ARG002
        """The request on one server of several attention groups that share the experts between them (data-parallel
        attention).

        Args:
            request: The question.
            tp: Tensor-parallel ranks of a group.
            groups: Groups, each with a KV cache of its own.

        Returns:
            The same question with the flags of such a server, on `tp` x `groups` GPUs; None where the engine or the
            model has no such server.
        """
        return None

    def flag_names(self) -> frozenset[str]:
        """The flags that some release of it has, with their dashes; empty where they are not known."""
        return frozenset()

    def elastic_words(self) -> tuple[str, ...]:
        """The flags that make its KV cache elastic; none where it always is.

        Raises:
            UnsupportedError: It has no elastic KV cache.
        """
        raise UnsupportedError(
            f"{self.title} has no elastic KV cache: it takes the whole of it at start",
            "drop --elastic, or use --engine sglang or builtin",
        )

    def with_elastic(self, words: tuple[str, ...]) -> tuple[str, ...]:
        """The user's own flags, and those that make its KV cache elastic.

        Raises:
            InputError: A flag given says otherwise.
            UnsupportedError: It has no elastic KV cache.
        """
        from farspan.planner.engine_flags import parse_engine_flags

        added = self.elastic_words()
        given = parse_engine_flags(words)
        if not added or given.get(added[0]) == added[1]:
            return words
        if added[0] in given:
            raise InputError(f"{added[0]} {given[added[0]]} contradicts --elastic", "give one of them")
        return (*words, *added)

    def check_elastic(self, python: str) -> None:  # noqa: B027
        """Make sure that what its elastic KV cache needs is installed in a Python.

        Args:
            python: The program.

        Raises:
            MissingPackageError: It is not.
        """

    def levers(self) -> Sequence[LeverCandidate]:
        """What can be changed when a request does not fit, in order of what it costs the user."""
        return ()

    def expert_parallel_words(self, ranks: int) -> tuple[str, ...]:
        """The flags that share whole experts out over so many ranks.

        Raises:
            UnsupportedError: It cannot.
        """
        raise UnsupportedError(
            f"the {self.name} engine does not share experts out over {ranks} ranks", "drop --ep"
        )

    def config_form(self, architecture: str, version: str) -> ConfigForm:  # noqa: ARG002
        """How it reads the config of one rank of such a model, alone.

        Args:
            architecture: The whole model's.
            version: The engine's; the newest when empty.
        """
        from farspan.models.shard.config_form import ANY_ENGINE

        return ANY_ENGINE

    # Starting it.

    def image(self, version: str) -> str:  # noqa: ARG002
        """The public container image of a release.

        Raises:
            UnsupportedError: There is none.
        """
        raise UnsupportedError(
            f"there is no public image of the {self.name} engine",
            "use --runtime local, or name one with --image",
        )

    def command(
        self,
        model: str,
        flags: Sequence[str],
        env: Mapping[str, str],
        listen: Listen,
        nodes: Nodes | None = None,
        *,
        python: str = "",
    ) -> EngineCommand:
        """The command of one server, or of one machine of it.

        Args:
            model: A folder or hub id, as the engine will find it.
            flags: The plan's flags.
            env: The plan's environment variables; the engine's own come in addition.
            listen: Where it listens.
            nodes: The machines; one when None.
            python: The Python of this machine to start the engine with; empty inside an image, whose entrypoint the
                command replaces.

        Raises:
            UnsupportedError: The engine cannot run so.
        """
        from farspan.engines.command import Nodes

        return self.build_command(model, flags, {**env, **self.environment}, listen, nodes or Nodes(), python)

    @abstractmethod
    def build_command(
        self,
        model: str,
        flags: Sequence[str],
        env: Mapping[str, str],
        listen: Listen,
        nodes: Nodes,
        python: str,
    ) -> EngineCommand:
        """The command of `command`, from the whole of its environment.

        Raises:
            UnsupportedError: The engine cannot run so.
        """

    def live_path(self, *, with_key: bool) -> str:  # noqa: ARG002
        """The path that answers 200 as long as the server lives, never waits for a prefill and wants no key.

        Args:
            with_key: Whether the server demands an API key.
        """
        return "/health"

    # Watching it.

    @abstractmethod
    def metric_sources(self) -> Mapping[Measure, tuple[MetricSource, ...]]:
        """Where each measure comes from in its /metrics; several where versions differ, the newest first."""

    def log_patterns(self) -> tuple[LinePattern, ...]:
        """The lines of its log that mean something, for the doctor's reader."""
        return ()

    def doctor_rules(self) -> tuple[Rule | StateRule, ...]:
        """The failures only this engine has, for the doctor."""
        return ()
