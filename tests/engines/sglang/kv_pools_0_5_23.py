"""The server of `kv_pools_process.py` in SGLang 0.5.23: options are published, requests have records."""

from __future__ import annotations

from types import SimpleNamespace as Values
from typing import Any, ClassVar


def server_23(base: Any) -> Any:
    """Return `base`, the server of 0.5.16, with what is different in 0.5.23."""

    class Server23(base):  # type: ignore[misc]
        more_of_configurator: ClassVar[dict[str, Any]] = {
            "gpu_id": 0,
            "attn_dp_size": 1,
            "pp_size": 1,
            "kv_cache_dtype_str": "auto",
            "kv_shard_rank": None,
            "kv_shard_size": 1,
            "kv_shard_spec": None,
            "spec_aux_config": Values(),
            "is_hybrid_swa_mtp_draft": False,
        }
        more_of_scheduler: ClassVar[dict[str, Any]] = {
            "beam_coordinator": Values(pending_member_rows=lambda *_: 0),
            "dynamic_chunk_sizer": None,
            "rust_server": None,
        }
        observer_asks = False
        groups_prefill = True

        def _set_globals(self) -> None:
            """Publish the options, as a process of SGLang does when it starts."""
            import sglang.srt.managers.scheduler as scheduler
            from sglang.srt.mem_cache import allocation
            from sglang.srt.runtime_context import get_context
            from sglang.srt.server_args import ServerArgs

            known = set(ServerArgs.__struct_fields__)
            options = {name: value for name, value in vars(self.settings).items() if name in known}
            self.settings = get_context().override_server_args(device=self.device, **options).install()
            scheduler.PrefillStats = Values(from_adder=lambda *_, **__: None)
            allocation.support_triton = lambda *_: False

        def more_of_checker(self) -> dict[str, Any]:
            return {"scheduler_stage_metrics": None, "get_chunked_req": lambda: self.s.chunked_req}

        def row_of(self, req: Any) -> int:
            return int(req.kv.req_pool_idx)

        def prefix_of(self, req: Any) -> int:
            return int(req.prefix_len)

        def end_of(self, req: Any) -> int:
            return int(req.extend_end)

        def committed_of(self, req: Any) -> int:
            return int(req.kv.kv_committed_len)

        def commit(self, req: Any, length: int) -> None:
            assert req.kv.kv_committed_len == length, "SGLang commits what it allocates"

        def cache(self, req: Any) -> None:
            from sglang.srt.mem_cache.common import checkpoint_kv_cache

            checkpoint_kv_cache(req, self.tree)

        def release(self, req: Any) -> None:
            from sglang.srt.mem_cache.common import release_kv_cache

            release_kv_cache(req, self.tree, checkpoint=True)

    return Server23
