from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest

from farspan.errors import InputError, NetworkError, NotFoundError
from farspan.models import catalog
from farspan.models.config import engine_model_name, load_model, spec_from_config
from farspan.models.spec import AttentionKind


def scout_text() -> dict[str, Any]:
    entry = catalog.find("llama-4-scout")
    assert entry is not None
    return entry.config()


@pytest.mark.parametrize("entry", catalog.entries(), ids=lambda entry: entry.name)
def test_every_catalog_model_is_read(entry: catalog.CatalogEntry) -> None:
    model = load_model(entry.name)
    config = entry.config()
    text = config.get("text_config", config)
    assert model.num_layers == text["num_hidden_layers"] == len(model.layers)
    assert model.vocab_size == text["vocab_size"]
    assert model.max_position_embeddings == text["max_position_embeddings"]
    assert [layer.index for layer in model.layers] == list(range(model.num_layers))
    for layer in model.layers:
        assert (layer.window is not None) == (
            layer.attention
            in (AttentionKind.CHUNKED_LOCAL, AttentionKind.SLIDING_WINDOW, AttentionKind.COMPRESSED)
        )
        assert (layer.latent is not None) == (layer.attention is AttentionKind.MLA)
        assert bool(layer.states) == (
            layer.attention is AttentionKind.LINEAR
            or (layer.attention is AttentionKind.COMPRESSED and layer.tokens_per_entry > 0)
        )


def test_names_aliases_and_hub_ids_find_the_same_model() -> None:
    wanted = "llama-4-scout-17b-16e-instruct"
    for name in ("llama-4-scout", "Llama-4-Scout", "meta-llama/Llama-4-Scout-17B-16E-Instruct", wanted):
        assert load_model(name, allow_network=False).name == wanted
    assert engine_model_name("llama-4-scout") == "meta-llama/Llama-4-Scout-17B-16E-Instruct"


def kinds(name: str) -> dict[AttentionKind, int]:
    found: dict[AttentionKind, int] = {}
    for layer in load_model(name).layers:
        found[layer.attention] = found.get(layer.attention, 0) + 1
    return found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama-4-scout", {AttentionKind.FULL: 12, AttentionKind.CHUNKED_LOCAL: 36}),
        ("gpt-oss-20b", {AttentionKind.FULL: 12, AttentionKind.SLIDING_WINDOW: 12}),
        ("gemma-4-26b-a4b", {AttentionKind.FULL: 5, AttentionKind.SLIDING_WINDOW: 25}),
        ("mimo-v2-flash", {AttentionKind.FULL: 9, AttentionKind.SLIDING_WINDOW: 39}),
        ("qwen3.5-27b", {AttentionKind.FULL: 16, AttentionKind.LINEAR: 48}),
        ("kimi-k3", {AttentionKind.MLA: 24, AttentionKind.LINEAR: 69}),
        ("deepseek-v3.2", {AttentionKind.MLA: 61}),
        ("deepseek-v4-flash", {AttentionKind.COMPRESSED: 43}),
        ("step-3.7-flash", {AttentionKind.FULL: 12, AttentionKind.SLIDING_WINDOW: 33}),
        ("minimax-m3", {AttentionKind.FULL: 60}),
    ],
)
def test_attention_kinds(name: str, expected: dict[AttentionKind, int]) -> None:
    assert kinds(name) == expected


def test_scouts_full_layers_are_every_fourth_and_have_no_rope() -> None:
    layers = load_model("llama-4-scout").layers
    full = [layer.index for layer in layers if layer.attention is AttentionKind.FULL]
    assert full == list(range(3, 48, 4))
    assert [layer.index for layer in layers if not layer.rope] == full
    assert {layer.window for layer in layers} == {8192, None}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("architectures", ["FancyNetForCausalLM"], "'FancyNetForCausalLM' is not one farspan knows"),
        ("architectures", [], "field architectures is \\[\\]"),
        ("kv_compression", 4, "field kv_compression is not one farspan knows"),
        ("num_hidden_layers", "many", "field num_hidden_layers is 'many', not a whole number"),
        ("num_hidden_layers", 0, "field num_hidden_layers is 0, not positive"),
        ("num_hidden_layers", None, "field num_hidden_layers is missing"),
        ("vocab_size", -5, "field vocab_size is -5, not positive"),
        ("hidden_act", "relu2", "field hidden_act is 'relu2', which farspan does not model"),
        ("torch_dtype", "float4", "field torch_dtype is 'float4'"),
        ("rope_scaling", {"rope_type": "magic"}, "field rope_scaling.rope_type is 'magic'"),
        ("rope_scaling", {"rope_type": "yarn", "wobble": 1}, "field rope_scaling.wobble"),
        ("quantization_config", {"quant_method": "squeezellm"}, "quant_method is 'squeezellm'"),
        ("mlp_bias", "yes", "field mlp_bias is 'yes'"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(field: str, value: object, message: str) -> None:
    entry = catalog.find("llama-3.1-8b")
    assert entry is not None
    config = {**entry.config(), field: value}
    with pytest.raises(InputError, match=message):
        spec_from_config(config, "changed")


def test_nested_fields_are_named_by_their_path() -> None:
    config = scout_text()
    config["text_config"]["no_rope_layers"] = [1, 0]
    with pytest.raises(InputError, match=r"text_config\.no_rope_layers has 2 entries for 48 layers"):
        spec_from_config(config, "scout")
    config = scout_text()
    config["text_config"]["mystery"] = 1
    with pytest.raises(InputError, match=r"text_config\.mystery"):
        spec_from_config(config, "scout")
    config = scout_text()
    config["vision_config"]["mystery"] = 1
    with pytest.raises(InputError, match=r"vision_config\.mystery"):
        spec_from_config(config, "scout")


def test_llama4_layer_fields_decide_the_layout() -> None:
    config = scout_text()
    text = config["text_config"]
    text["num_hidden_layers"] = 4
    text["no_rope_layers"] = [1, 0, 1, 0]
    text["interleave_moe_layer_step"] = 0
    model = spec_from_config(config, "small")
    assert [layer.rope for layer in model.layers] == [True, False, True, False]
    assert all(layer.moe is None and layer.intermediate_size == 16384 for layer in model.layers)
    text["moe_layers"] = [2]
    assert [layer.moe is not None for layer in spec_from_config(config, "small").layers] == [
        False,
        False,
        True,
        False,
    ]


def test_gemmas_shared_layers_keep_no_kv() -> None:
    entry = catalog.find("gemma-4-26b-a4b")
    assert entry is not None
    config = entry.config()
    config["text_config"]["num_kv_shared_layers"] = 6
    layers = spec_from_config(config, "shared").layers
    assert [layer.shares_kv_with for layer in layers[24:]] == [22, 22, 22, 22, 22, 23]
    assert all(layer.kv_bytes(10_000, 2) == 0 for layer in layers[24:])
    assert all(layer.shares_kv_with is None for layer in layers[:24])


def test_a_folder_a_file_and_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    entry = catalog.find("qwen3-0.6b")
    assert entry is not None
    (folder / "config.json").write_text(json.dumps(entry.config()))
    assert load_model(str(folder)).name == "my-model"
    assert load_model(str(folder / "config.json")).name == "my-model"
    assert engine_model_name(str(folder / "config.json")) == str(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        load_model(str(folder))
    (folder / "config.json").write_text("[]")
    with pytest.raises(InputError, match="not a JSON object"):
        load_model(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        load_model(str(folder))


def test_a_mistyped_name_is_answered_with_a_close_one() -> None:
    with pytest.raises(InputError, match="did you mean llama-4-scout"):
        load_model("lama-4-scout")


class Hub(BaseHTTPRequestHandler):
    """A hub that has one model and keeps another behind a token."""

    body = b"{}"
    elsewhere = ""
    tokens: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        if self.path == "/gated/model/resolve/main/config.json" and "Authorization" not in self.headers:
            self.send_error(401)
        elif self.path.startswith("/moved/"):
            self.send_response(307)
            self.send_header("Location", f"{self.elsewhere}/open/model/resolve/main/config.json")
            self.end_headers()
        elif self.path.endswith("/model/resolve/main/config.json"):
            self.tokens.append(self.headers.get("Authorization"))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.body)
        else:
            self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    entry = catalog.find("qwen3-8b")
    assert entry is not None
    Hub.body = json.dumps(entry.config()).encode()
    server = HTTPServer(("127.0.0.1", 0), Hub)
    thread = Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(Hub, "tokens", [])
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_hub_id_is_fetched(hub: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_model("someone/model").num_layers == 36
    with pytest.raises(NotFoundError, match=r"answered 404.*check the name"):
        load_model("someone/else")
    with pytest.raises(NotFoundError, match=r"answered 401.*HF_TOKEN"):
        load_model("gated/model")
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert load_model("gated/model").num_layers == 36
    with pytest.raises(NotFoundError, match="network is off"):
        load_model("someone/model", allow_network=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(NotFoundError, match="network is off"):
        load_model("someone/model")


def test_a_redirect_to_another_host_takes_no_token_along(
    hub: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setattr(Hub, "elsewhere", f"http://localhost:{hub.server_port}")
    load_model("moved/model")
    monkeypatch.setattr(Hub, "elsewhere", f"http://127.0.0.1:{hub.server_port}")
    load_model("moved/model")
    # Each model is two files.
    assert Hub.tokens == [None, None, "Bearer secret", "Bearer secret"]


def test_an_unreachable_hub_is_one_line(hub: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(NetworkError, match="cannot be reached") as caught:
        load_model("someone/model")
    assert "\n" not in str(caught.value)


def test_the_local_cache_is_used_first(hub: HTTPServer, tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "models--someone--cached"
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    (snapshot / "config.json").write_bytes(Hub.body)
    assert load_model("someone/cached", allow_network=False).num_layers == 36
