"""From a config to a ModelSpec by the tables: a decoder by its declaration, the encoders around it by theirs.

What few models need is imported where one needs it: a plan must answer in 0.3 s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from farspan.errors import UnsupportedError
from farspan.models.families.config_fields import ConfigReader
from farspan.models.families.declaration import Family
from farspan.models.families.decoder import Decoder
from farspan.models.families.table import FAMILIES
from farspan.models.families.wrappers import ENCODER_DEFAULTS, TEXT_DEFAULTS, TEXT_TYPES, WRAPPERS, Wrapper
from farspan.models.spec import ModelSpec
from farspan.models.tensors import WeightPart


def read(reader: ConfigReader, name: str) -> ModelSpec:
    """Read a config whose architecture is in the tables, or any other by what its fields say."""
    architecture = reader.texts("architectures")[0]
    wrapper = WRAPPERS.get(architecture)
    if wrapper is None and architecture not in FAMILIES and _text_section(reader, Wrapper()) is not None:
        wrapper = Wrapper()
    if wrapper is not None:
        return _read_wrapped(reader, name, architecture, wrapper)
    family, notes = _family(architecture, reader)
    reader = _rewritten(reader, family)
    family = _with_defaults(family, reader)
    decoder = Decoder(
        name,
        architecture,
        reader,
        reader,
        prefix=family.prefix,
        tied_by_default=family.tied,
        final_norm=family.norm_weights and family.final_norm,
    )
    return _build(decoder, family, notes)


def _family(architecture: str, reader: ConfigReader) -> tuple[Family, tuple[str, ...]]:
    """The declaration of an architecture; for one in no table, what its fields say, and a note that says so."""
    family = FAMILIES.get(architecture)
    if family is not None:
        return family, (family.note,) if family.note else ()
    from farspan.models.families.assumed import assumed_family
    from farspan.models.families.served import SERVED

    if architecture not in SERVED and architecture not in WRAPPERS:
        from difflib import get_close_matches

        close = get_close_matches(architecture, [*FAMILIES, *WRAPPERS, *SERVED], n=2)
        raise UnsupportedError(
            f"{reader.source}: architecture {architecture!r} is not one farspan knows, nor one of the engines'",
            f"did you mean {' or '.join(close)}?" if close else "check the field architectures",
        )
    reader.assume()
    return assumed_family(reader.fields), (
        f"assumed: farspan has no table for {architecture}; its layers are read by the usual names of fields",
    )


def _rewritten(reader: ConfigReader, family: Family) -> ConfigReader:
    if not family.code:
        return reader
    from farspan.models.families.rewrites import REWRITES

    rewrite = REWRITES.get(family.code)
    return reader if rewrite is None else reader.with_fields(rewrite(dict(reader.fields)))


def _with_defaults(family: Family, reader: ConfigReader) -> Family:
    for name, value in family.defaults:
        reader.set_default(name, value)
    return family


def _build(decoder: Decoder, family: Family, notes: tuple[str, ...]) -> ModelSpec:
    from farspan.models.families.decoder_reader import read_layers

    if family.code in ("decilm", "longcat", "zamba2"):
        from farspan.models.families import decilm, longcat, zamba2

        readers = {"decilm": decilm.read_layers, "longcat": longcat.read_layers, "zamba2": zamba2.read_layers}
        ropes = readers[family.code](decoder)
    else:
        ropes = read_layers(decoder, family)
    if family.code:
        from farspan.models.families.adjustments import ADJUSTMENTS

        if family.code in ADJUSTMENTS:
            ADJUSTMENTS[family.code](decoder)
    if "dual_chunk_attention_config" in decoder.reader:
        notes += ("dual chunk attention: every key and value is kept, as without it",)
    spec = decoder.build(ropes, notes)
    passed_over = decoder.reader.assumed_fields()
    if passed_over:
        note = f"assumed: these fields were not read: {', '.join(passed_over)}"
        spec = replace(spec, notes=(*spec.notes, note))
    return spec


def _text_section(reader: ConfigReader, wrapper: Wrapper) -> ConfigReader | None:
    for field in wrapper.sections:
        section = reader.section(field)
        if section is not None:
            inner = section.section("text_config") if "text_config" in section else None
            return inner or section
    return None


def _read_wrapped(reader: ConfigReader, name: str, architecture: str, wrapper: Wrapper) -> ModelSpec:
    outer = reader
    for field in wrapper.sections:
        section = reader.section(field)
        if section is not None and "text_config" in section:
            outer = section  # the thinker of an omni model: its encoders stand beside its decoder
            reader.ignore(*reader.fields)
    text = _text_section(reader, wrapper) or reader
    kind = text.text("model_type", "")
    own = text.texts("architectures", [])
    decoder_name = wrapper.text or TEXT_TYPES.get(kind) or (own[0] if own and text is not reader else "")
    family, notes = _family(decoder_name or architecture, text)
    for field, value in TEXT_DEFAULTS.get(kind, {}).items():
        text.set_default(field, value)
    text = _rewritten(text, family)
    family = _with_defaults(family, text)
    tied = family.tied if wrapper.tied is None else wrapper.tied
    decoder = Decoder(
        name,
        architecture,
        reader,
        text,
        prefix=wrapper.prefix,
        tied_by_default=tied,
        final_norm=family.norm_weights and family.final_norm,
    )
    notes += _read_encoders(outer, decoder, wrapper)
    outer.ignore(*outer.fields)
    reader.ignore(*(field for field in reader.fields if field not in text.fields or text is not reader))
    if family.code == "minimax":
        from farspan.models.families import minimax

        return minimax.read_into(decoder, notes)
    return _build(decoder, family, notes)


def _read_encoders(outer: ConfigReader, decoder: Decoder, wrapper: Wrapper) -> tuple[str, ...]:
    """Record vision and audio encoders, and return what must be said of them."""
    from farspan.models.families import towers, vision

    notes: tuple[str, ...] = (wrapper.note,) if wrapper.note else ()
    if wrapper.published:
        decoder.weights.add(WeightPart.VISION, "visual", wrapper.published)
        return notes
    section = outer.section("vision_config")
    if section is not None:
        kind = wrapper.tower or section.text("model_type", "")
        for field, value in ENCODER_DEFAULTS.get(kind, {}).items():
            section.set_default(field, value)
        if kind in ("moonvit", "kimi_k25_vision"):
            vision.moonvit(vision.spelled_as_k25(section), decoder.weights, decoder.hidden)
        elif "hidden_size" not in section and "embed_dim" not in section:
            notes += ("the vision encoder's weights are not counted: its config gives no sizes",)
        else:
            if kind not in towers.TOWERS:
                notes += (
                    f"assumed: the vision encoder {kind or 'without a name'} is counted as a plain ViT",
                )
            built = towers.read_tower(section, decoder.weights, kind, decoder.hidden)
            if wrapper.joins:
                towers.join(wrapper.joins, outer, decoder.weights, built, decoder.hidden)
    audio = outer.section("audio_config")
    if audio is not None and wrapper.audio:
        towers.read_audio_tower(audio, decoder.weights, decoder.hidden, wrapper.audio)
    elif audio is not None and isinstance(outer.fields.get("audio_config"), Mapping):
        notes += ("the audio encoder's weights are not counted",)
    return notes
