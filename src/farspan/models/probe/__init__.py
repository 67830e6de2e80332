"""The recall checkpoint: a tiny Llama 4 whose weights are constructed so that it copies back whatever followed a key.

It needs no download, runs on any engine that serves Llama 4, and turns "does this engine, with this KV dtype and this
context length, still see token 3 of 10,000,000?" into a yes or a no.
"""

from farspan.models.probe.design import (
    KV_ROUNDING,
    ProbeDesign,
    copy_leak,
    longest_recall,
    recall_margin,
    required_margin,
)
from farspan.models.probe.vocabulary import Vocabulary, vocabulary
from farspan.models.probe.write_checkpoint import ProbeCheckpoint, probe_config, write_probe

__all__ = [
    "KV_ROUNDING",
    "ProbeCheckpoint",
    "ProbeDesign",
    "Vocabulary",
    "copy_leak",
    "longest_recall",
    "probe_config",
    "recall_margin",
    "required_margin",
    "vocabulary",
    "write_probe",
]
