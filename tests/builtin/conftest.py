from collections.abc import Iterator
from pathlib import Path

import pytest

from farspan.builtin.engine import EngineOptions, InferenceEngine
from farspan.builtin.model import LlamaModel
from farspan.kv.kv_options import KVOptions
from farspan.models.probe import write_probe


@pytest.fixture(scope="session")
def probe_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recall checkpoint with chunks short enough that small prompts cross many."""
    folder = tmp_path_factory.mktemp("models") / "probe"
    return write_probe(
        folder,
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_chunk_size=256,
        max_position_embeddings=20_000_000,
    ).folder


@pytest.fixture(scope="session")
def probe_model(probe_folder: Path) -> LlamaModel:
    return LlamaModel(probe_folder)


@pytest.fixture
def engine(probe_model: LlamaModel) -> Iterator[InferenceEngine]:
    made = InferenceEngine(
        probe_model, EngineOptions(kv=KVOptions(capacity_gib=1), max_num_batched_tokens=512)
    )
    yield made
    statistics = made.statistics()
    assert statistics.sequences == 0
    assert statistics.held_bytes == 0, "an ended request kept its room"
    assert statistics.promised_bytes == 0
    made.close()
