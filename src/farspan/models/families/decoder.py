"""What every decoder has around its layers: embedding, last norm, head, dtype, quantization."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from farspan.models.families.config_fields import ConfigReader
from farspan.models.families.weights_builder import WeightsBuilder
from farspan.models.spec import LayerSpec, ModelSpec
from farspan.models.tensors import RopeSpec

if TYPE_CHECKING:
    from farspan.models.families.quantization import Quantization

# vllm 0.33.0 config/model.py: _get_and_verify_max_len, where no field names a length.
UNSAID_POSITIONS = 2048


@dataclass
class Decoder:
    """The fields common to every decoder's config, and what has been collected from it.

    Args:
        name: The model's name.
        architecture: `architectures[0]` of the outermost config.
        outer: The outermost config, holding quantization and dtype when the decoder's own level does not.
        reader: The decoder's own level (`text_config`, or the outermost one again).
        prefix: What checkpoints put before the decoder's names.
        tied_by_default: Whether the head is the embedding where the config does not say.
        final_norm: Whether a norm with weights follows the last layer.
    """

    name: str
    architecture: str
    outer: ConfigReader
    reader: ConfigReader
    prefix: str = "model."
    tied_by_default: bool = False
    final_norm: bool = True
    layers: list[LayerSpec] = field(default_factory=list)

    def __post_init__(self) -> None:
        reader = self.reader
        self.hidden = reader.integer("hidden_size")
        self.num_layers = _layer_count(reader)
        self.vocab = reader.integer("vocab_size")
        self.positions = reader.integer("max_position_embeddings", UNSAID_POSITIONS)
        self.tied = reader.flag("tie_word_embeddings", self.tied_by_default)
        if self.outer is not reader:
            self.tied = self.outer.flag("tie_word_embeddings", self.tied)
        quantization = _quantization(reader)
        if quantization is None and self.outer is not reader:
            quantization = _quantization(self.outer)
        self.weights = WeightsBuilder(quantization, self.prefix)
        self.weights.embedding(self.vocab, self.hidden, tied=self.tied)
        if self.final_norm:
            self.weights.norm("norm", self.hidden)

    def build(self, ropes: Iterable[RopeSpec], notes: tuple[str, ...] = ()) -> ModelSpec:
        """Check that no field was left unread and return the model.

        Raises:
            InputError: The config has a field nobody read.
        """
        dtype = self.reader.dtype(self.outer.dtype())
        others = () if self.outer is self.reader else (self.outer,)
        self.reader.finish(*others)
        quantization = self.weights.quantization
        return ModelSpec(
            name=self.name,
            architecture=self.architecture,
            model_type=self.outer.text("model_type"),
            hidden_size=self.hidden,
            vocab_size=self.vocab,
            max_position_embeddings=self.positions,
            layers=tuple(self.layers),
            weights=self.weights.build(),
            torch_dtype=dtype,
            ropes=tuple(ropes),
            quantization=quantization.spec if quantization else None,
            kv_fp8=quantization is not None and quantization.kv_fp8,
            tie_word_embeddings=self.tied,
            notes=notes,
        )


def _layer_count(reader: ConfigReader) -> int:
    """Decoder layers: `num_hidden_layers`, or as many as the block list has."""
    if "num_hidden_layers" in reader:
        return reader.integer("num_hidden_layers")
    for name in ("layers_block_type", "layer_types", "block_configs"):
        value = reader.fields.get(name)
        if isinstance(value, list) and value:
            return len(value)
    return reader.integer("num_hidden_layers")


def _quantization(reader: ConfigReader) -> Quantization | None:
    """How a config says its checkpoint is quantized; None where it is not."""
    section = reader.section("quantization_config") or reader.section("compression_config")
    if section is None:
        return None
    # Imported for quantized checkpoints alone: it is long, and a plan must answer in 0.3 s.
    from farspan.models.families.quantization import read_quantization

    return read_quantization(section)


def flat(reader: ConfigReader, name: str, *, tied: bool = False) -> Decoder:
    """A decoder whose fields are at the top of the config; `tied` where the config does not say."""
    return Decoder(name, reader.texts("architectures")[0], reader, reader, tied_by_default=tied)


def nested(reader: ConfigReader, name: str, prefix: str, *, tied: bool = False) -> Decoder:
    """A decoder under `text_config`, as multimodal models have it."""
    text = reader.section("text_config")
    if text is None:
        reader.refuse("text_config", "is missing", "use the model's complete config.json")
    return Decoder(name, reader.texts("architectures")[0], reader, text, prefix, tied_by_default=tied)
