"""Kimi K2.5: DeepSeek V3's language model under a MoonViT tower."""

from __future__ import annotations

from farspan.models.families import vision
from farspan.models.families.config_fields import ConfigReader
from farspan.models.families.decoder import nested
from farspan.models.families.deepseek import latent_layers
from farspan.models.families.rope import rope_table
from farspan.models.spec import ModelSpec


def read(reader: ConfigReader, name: str) -> ModelSpec:
    """Read a config of this family (see `farspan.models.families`)."""
    decoder = nested(reader, name, "language_model.model.")
    latent_layers(decoder, sparse=False)
    reader.ignore("media_placeholder_token_id", "use_unified_vision_chunk", "video_placeholder")
    tower = reader.section("vision_config")
    if tower is None:
        reader.refuse("vision_config", "is missing", "use the model's complete config.json")
    vision.moonvit(tower, decoder.weights, decoder.hidden)
    latent = decoder.layers[0].latent
    assert latent is not None
    return decoder.build([rope_table(decoder.reader, latent.rope_dim, decoder.positions)])
