"""The form in which an engine reads the config of one rank."""

from __future__ import annotations

from typing import NamedTuple


class ConfigForm(NamedTuple):
    """What an engine asks of a rank's config beside its sizes.

    Args:
        engine: The engine's name, for refusals.
        keeps_wrapper: Whether a multimodal config keeps its form, with the rank's language model inside: the engine
            goes by the architecture's name, and loads no encoder.
        decoder: The engine's own name of the language model; empty where it is the one that the config gives.
        model_type: The `model_type` under which the engine reads it; empty where it is the one that the config gives.
        nested: Whether its fields stay under `text_config`.
        fixed_head_sizes: Architectures whose heads are as large as the hidden size divided by their number, whatever
            the config says.
        least_expert_width: What the engine pads each rank's share of an expert's width to; 0 for nothing.
    """

    engine: str = ""
    keeps_wrapper: bool = False
    decoder: str = ""
    model_type: str = ""
    nested: bool = False
    fixed_head_sizes: frozenset[str] = frozenset()
    least_expert_width: int = 0


ANY_ENGINE = ConfigForm()
