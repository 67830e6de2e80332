"""The model: where it comes from, whether its files are whole, and whether the library can read them."""

from __future__ import annotations

from farspan.engines.logs.findings import Confidence, Severity
from farspan.engines.logs.pattern import compile_pattern
from farspan.engines.logs.rule import Diagnosis, Rule, RuleMatch, known
from farspan.engines.logs.server_state import ServerState

_NOT_FOUND = compile_pattern(
    r"(?P<named>[\w./-]{2,200}) is not a local folder and is not a valid model identifier|"
    r"RepositoryNotFoundError"
    r"|Repository Not Found for url: \S*?huggingface\.co/(?:api/models/)?(?P<url>[\w.-]+/[\w.-]+)"
    r"|Repo id must be in the form|does not appear to have a file named config\.json"
    r"|Invalid repository ID or local directory|EntryNotFoundError: 404|Can't load the configuration of"
    r"|No such file or directory: '[^']*config\.json'|Cannot find any model weights|RevisionNotFoundError"
)


def _model_not_found(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:
    match, text = rule_match.match, rule_match.message.text
    name = match["named"] or match["url"] or server_state.model
    if "model weights" in text:
        return Diagnosis(
            "The folder has no weights the loader knows (*.safetensors, *.bin, *.pt): an unfinished "
            "download, or another "
            "format (GGUF, for example, is given by its file).",
            (
                "look into the folder; download it again: hf download OWNER/NAME",
                "--load-format says which format it is",
            ),
        )
    if match["named"] or match["url"] or "RepositoryNotFound" in text:
        return Diagnosis(
            f"There is no model {name or 'of that name'}: no folder of that path inside the "
            f"container, and no repository on "
            "the hub (which answers 401 for one that does not exist as for one that is private).",
            (
                "check the spelling, capitals and owner on the hub's page of the model",
                "a path must be the path inside the container, mounted with -v, and begin with /",
                "a private repository needs HF_TOKEN of an account that may read it",
            ),
        )
    return Diagnosis(
        "The model's name is neither a folder inside the container nor a repository on the hub, or "
        "the folder has no "
        "config.json.",
        (
            "check the spelling; a path must be the path inside the container, mounted with -v",
            "a folder must hold config.json: of a hub cache give .../snapshots/HASH, not the folder above",
        ),
    )


MODEL_NOT_FOUND = Rule(
    id="model-not-found",
    means="There is no such model, neither on the hub nor at that path.",
    severity=Severity.ERROR,
    pattern=_NOT_FOUND,
    explain=_model_not_found,
    sources=("vllm-project/vllm v0.12 transformers_utils/config.py", "huggingface_hub errors.py"),
)

_GATED = compile_pattern(
    r"gated repo|GatedRepoError|(?:401|403) Client Error.{0,80}huggingface\.co|Access to model \S+ "
    r"is restricted"
)


def _gated(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis | None:
    text = rule_match.message.text
    certain = "Gated" in text or "restricted" in text or ("gated" in text and "make sure" not in text)
    if not certain:
        for error in server_state.tracebacks.exceptions:
            if "RepositoryNotFound" in error.type or "is not a valid model identifier" in error.text:
                return None  # the hub answers 401 for what does not exist, too
        if "If you are trying to access" in text:
            return None
    return Diagnosis(
        "The model is gated: the hub answers 401 or 403 because no token was given, or its owner has "
        "not accepted the "
        "licence.",
        (
            "accept the licence on the model's page, and pass HF_TOKEN in the environment (docker "
            "run -e HF_TOKEN, a "
            "Kubernetes Secret)",
            "the token needs read access to gated repositories",
        ),
        Confidence.CERTAIN if certain else Confidence.STRONG,
    )


GATED = Rule(
    id="gated-model",
    means="The hub does not let this token read the model.",
    severity=Severity.ERROR,
    pattern=_GATED,
    explain=_gated,
    sources=("vllm-project/vllm#8331", "skypilot-org/skypilot#2634"),
)

_TRANSFORMERS = compile_pattern(
    r"has no attribute '?(?P<attribute>all_special_tokens_extended|all_special_ids|"
    r"additional_special_tokens_ids)\b"
    r"|cannot import name '(?P<name>\w+)' from '(?P<module>transformers[\w.]*)'"
    r"|(?P<config>\w+Config)' object has no attribute '(?P<field>rope_theta|rope_scaling|rope_parameters|"
    r"max_position_embeddings|num_attention_heads|pad_token_id|head_dim)'"
    r"|module 'transformers[\w.]*' has no attribute '(?P<gone>\w+)'"
    r"|requires? transformers ?[<=>~]{1,2} ?[\d.]+|'(?P<key>rope_type|type)'$|'aimv2' is already "
    r"used by a Transformers"
)


def _transformers(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis | None:  # noqa: ARG001
    match = rule_match.match
    if match["key"] is not None and not rule_match.raised_in("rope", "get_rope", "config.py"):
        return None
    tokenizer = match["attribute"] is not None
    if tokenizer and "TiktokenTokenizer" in rule_match.message.text:
        return Diagnosis(
            "This version cannot detokenize with a tiktoken tokenizer file: its class lacks what the "
            "detokenizer asks for, "
            "and that process ends with the first answer.",
            (
                "upgrade SGLang: later versions give that class what is asked for",
                "until then give the checkpoint's Hugging Face tokenizer: drop --tokenizer-path, or "
                "a converted folder",
            ),
            Confidence.STRONG,
        )
    what = (
        match["attribute"] or match["name"] or match["field"] or match["gone"] or match["key"] or "a version"
    )
    return Diagnosis(
        f"The transformers library here is of another generation than this version of the engine was made for "
        f"({what}): most often "
        "transformers 5 was installed or upgraded under an engine that needs 4.x.",
        (
            "pip install 'transformers<5', in the environment the engine runs in (vLLM to 0.16 and "
            "SGLang to 0.5.8 were "
            "made for 4.x)",
            "or a newer engine, made for it; official images bring the pair that was tested",
        ),
        Confidence.STRONG,
    )


TRANSFORMERS_MISMATCH = Rule(
    id="transformers-mismatch",
    means="The transformers library is of another generation than the engine expects.",
    severity=Severity.ERROR,
    pattern=_TRANSFORMERS,
    explain=_transformers,
    sources=(
        "vllm-project/vllm transformers_utils/tokenizer.py: get_cached_tokenizer",
        "transformers 5 migration guide",
    ),
)

RULES: tuple[Rule, ...] = (
    MODEL_NOT_FOUND,
    GATED,
    known(
        "hub-rate-limit",
        "The hub answers 429: too many requests, though the model may be in the cache.",
        r"429 Client Error|Too Many Requests for url: \S*huggingface|HTTP 429.{0,80}hugging|rate "
        r"limit.{0,60}hugging",
        "The hub refuses further requests from this address (429). An engine asks it at every start, "
        "also for a model that "
        "is wholly in the cache: many workers or restarts behind one address use the limit up.",
        "HF_HUB_OFFLINE=1 when the model is in the cache: nobody is asked; or give the snapshot's "
        "folder as the model",
        "HF_TOKEN of an account raises the limit; a mirror or a proxy cache helps a cluster",
        sources=("huggingface/huggingface_hub docs: rate limits", "vllm-project/vllm#24519"),
    ),
    known(
        "hub-xet-transfer",
        "The hub's xet transfer fails while weights are downloaded.",
        r"CAS service error|CAS Client Error|xet_get|hf_xet|Xet Runtime Error|Data processing error: "
        r".{0,40}(?:CAS|MerkleDB|xet)",
        "The download failed in the hub's xet transfer, which loads files in chunks from another host "
        "(cas-server.xethub.hf.co, transfer.xethub.hf.co).",
        "HF_HUB_DISABLE_XET=1 loads the files the plain way",
        "a proxy or firewall must let *.xethub.hf.co through; pip install -U hf_xet huggingface_hub "
        "mends old faults of it",
        "or download beforehand: hf download OWNER/NAME, and HF_HUB_OFFLINE=1",
        sources=("huggingface/xet-core", "huggingface/huggingface_hub docs: HF_HUB_DISABLE_XET"),
        confidence=Confidence.STRONG,
    ),
    known(
        "hub-unreachable",
        "The hub cannot be reached and the files are not there.",
        (
            r"We couldn't connect to 'https://huggingface\.co'|LocalEntryNotFoundError"
            r"|huggingface\.co.{0,200}Max retries exceeded|Max retries exceeded with url.{0,300}huggingface"
            r"|outgoing traffic has been disabled|OfflineModeIsEnabled|offline mode is enabled"
            r"|Temporary failure in name resolution.{0,100}hugging|hugging.{0,200}Temporary failure "
            r"in name resolution"
        ),
        "The model is not (wholly) in the cache and the hub cannot be reached.",
        "download it first where there is a network (hf download OWNER/NAME), and mount that cache",
        "then set HF_HUB_OFFLINE=1: the engine asks nobody",
        sources=("huggingface/huggingface_hub docs: offline mode",),
    ),
    known(
        "checkpoint-truncated",
        "A weight file is not complete.",
        (
            r"SafetensorError|MetadataIncompleteBuffer|HeaderToo(?:Large|Small)|InvalidHeaderDeserialization"
            r"|incomplete metadata, file not fully covered"
        ),
        "A weight file is cut short or is not one: a download was interrupted, or the file is a Git "
        "LFS pointer.",
        "download it again: hf download OWNER/NAME --force-download",
        "a file of some hundred bytes is a Git LFS pointer: git lfs pull",
        sources=("vllm-project/vllm#15445", "QwenLM/Qwen3-VL#264", "gpustack/gpustack#815"),
    ),
    known(
        "processor-files-missing",
        "The folder lacks the image processor's or the tokenizer's files.",
        (
            r"Can't load (?:image processor|feature extractor|processor|tokenizer|video processor) for"
            r"|containing a preprocessor_config\.json|Unable to load vocabulary from file"
            r"|Can't instantiate .{0,40}[Tt]okenizer|[Cc]ouldn't instantiate the backend tokenizer"
        ),
        "The folder given as the model has the weights but not all small files beside them: "
        "preprocessor_config.json "
        "(images), or the tokenizer's.",
        "download the whole repository: hf download OWNER/NAME (no --include), and give .../snapshots/HASH",
        "a text-only use of a multimodal model needs the file nevertheless; copy it from the hub "
        "into the folder",
        "a tokenizer in another place: --tokenizer PATH (SGLang: --tokenizer-path)",
        sources=("transformers image_processing_base.py", "vllm transformers_utils/processor.py"),
    ),
    known(
        "architecture-unsupported",
        "This version of the engine does not know the model's architecture.",
        (
            r"Model architectures? .{1,200}? (?:are|is) not supported|failed to be inspected"
            r"|is not supported, the supported archs|has no (?:vLLM|SGlang|SGLang) implementation|"
            r"Unsupported architectures"
            r"|is not supported in-tree anymore|Cannot find model module|No module named "
            r"'vllm.model_executor.models"
        ),
        "This version of the engine does not know the model's architecture, or failed to import the "
        "module that has it "
        "(then another error stands above).",
        "use a newer image of the engine: the model's card says from which version",
        "if the name is in the printed list of supported ones, an import failed: read the error above it",
        "a model that brings its own code: --trust-remote-code, after reading it",
        sources=("vllm-project/vllm#9713", "vllm-project/vllm#22231", "vllm-project/vllm#32338"),
    ),
    known(
        "transformers-too-old",
        "The transformers library is older than the model.",
        (
            r"model type `?[\w.-]+`? but Transformers does not recognize this architecture"
            r"|Unrecognized configuration class|Unrecognized model in .{1,200} Should have a `model_type`"
            r"|Tokenizer class \w+ does not exist or is not currently imported"
        ),
        "The transformers library in this environment is older than the model and cannot read its config.",
        "use a newer image of the engine; upgrading transformers alone breaks the pair the engine "
        "was tested with",
        sources=("vllm-project/vllm#19793",),
    ),
    TRANSFORMERS_MISMATCH,
    known(
        "trust-remote-code",
        "The model brings its own code and was not allowed to run it.",
        (
            r"requires you to execute the configuration file|contains custom code"
            r"|please pass the argument `trust_remote_code=True`|set the option `trust_remote_code=True`"
        ),
        "The model brings its own Python code, and engines run that only when told to.",
        "read the code, then add --trust-remote-code",
        "or use a newer engine that has the architecture built in",
        sources=("vllm docs: trust-remote-code",),
    ),
)
