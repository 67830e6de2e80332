"""Carries out in the engine's process what the server asks for."""

from __future__ import annotations

import numpy as np

from farspan.builtin.engine import InferenceEngine
from farspan.builtin.engine_channel import EngineChannel, Message, pack_error
from farspan.builtin.engine_metrics import EngineMetrics
from farspan.builtin.runner import EngineRunner, Failed, StepToken
from farspan.builtin.sampling_params import SamplingParams
from farspan.builtin.scheduler import Request
from farspan.errors import FarspanError


class EngineHost:
    """An engine at the end of a socket.

    Args:
        engine: What runs; it is closed at the end.
        channel: Where the server's messages come from; it is closed at the end.
        model_name: What the metrics are labelled with.
    """

    def __init__(self, engine: InferenceEngine, channel: EngineChannel, model_name: str) -> None:
        self._engine = engine
        self._channel = channel
        self._metrics = EngineMetrics(model_name)
        self._runner = EngineRunner(engine, self._metrics, self._deliver, channel.end)

    def run(self) -> bool:
        """Say that the engine is ready, and serve until either side ends; False when it was the engine that failed."""
        self._runner.start()
        self._say_ready()
        try:
            while (message := self._channel.receive()) is not None:
                self._carry_out(message)
        finally:
            self._runner.stop()
            self._channel.close()
        return not self._runner.failed

    def _say_ready(self) -> None:
        engine, statistics = self._engine, self._engine.statistics()
        self._channel.send(
            {
                "ready": {
                    "folder": str(engine.model.folder),
                    "vocab_size": engine.model.config.vocab_size,
                    "max_model_len": engine.max_model_len,
                    "settings": engine.settings(),
                    "budget_file": None if engine.budget_file is None else str(engine.budget_file),
                    "mapped_bytes": statistics.mapped_bytes,
                    "capacity_bytes": statistics.capacity_bytes,
                }
            }
        )

    def _carry_out(self, message: Message) -> None:
        header = message.header
        match header["do"]:
            case "generate":
                self._generate(message)
            case "abort":
                self._runner.abort(header["id"])
            case "reset":
                self._runner.reset_prefix_cache()
            case "metrics":
                self._channel.send({"metrics": header["id"]}, self._metrics.exposition())

    def _generate(self, message: Message) -> None:
        request_id, params = message.header["id"], message.header["params"]
        try:
            request = Request(
                request_id,
                np.frombuffer(message.payload, np.int32),
                SamplingParams(**{**params, "stop_token_ids": tuple(params["stop_token_ids"])}),
                message.header["namespace"].encode(),
            )
            self._runner.check(request)
        except FarspanError as error:
            self._channel.send({"failed": [[request_id, pack_error(error)]]})
            return
        self._channel.send({"accepted": request_id})  # before its first token can be
        self._runner.begin(request)

    def _deliver(self, brought: list[StepToken | Failed]) -> None:
        if brought:
            failed = [
                [item.request_id, pack_error(item.error)] for item in brought if isinstance(item, Failed)
            ]
            self._channel.send(
                {"tokens": [tuple(item) for item in brought if isinstance(item, StepToken)], "failed": failed}
            )
