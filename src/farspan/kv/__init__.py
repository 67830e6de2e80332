"""The elastic KV cache: `ElasticKVCache` and what it is made of, each imported when it is first asked for.

`memory/` holds address space and physical memory apart (drivers, segments, ranges, pages), `tree/` is the tree of
prefixes, and the modules beside them put the two together: the cache, its sequences and the prefixes they share.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from farspan.errors import KVError
    from farspan.kv.interface import KVCacheError
    from farspan.kv.kv_options import KVOptions
    from farspan.kv.kvcache import ElasticKVCache
    from farspan.kv.memory.cap import Cap
    from farspan.kv.memory.drivers.cuda import CudaDriver
    from farspan.kv.memory.drivers.driver import DriverError, NoRoomError
    from farspan.kv.memory.drivers.host import HostDriver
    from farspan.kv.memory.pages import PagePool
    from farspan.kv.memory.segments import SegmentPool
    from farspan.kv.retention import LayerRetention
    from farspan.kv.tree.radix import RadixTree
    from farspan.kv.tree.results import RadixError

_HOMES = {
    "Cap": "farspan.kv.memory.cap",
    "CudaDriver": "farspan.kv.memory.drivers.cuda",
    "DriverError": "farspan.kv.memory.drivers.driver",
    "ElasticKVCache": "farspan.kv.kvcache",
    "HostDriver": "farspan.kv.memory.drivers.host",
    "KVCacheError": "farspan.kv.interface",
    "KVError": "farspan.errors",
    "KVOptions": "farspan.kv.kv_options",
    "LayerRetention": "farspan.kv.retention",
    "NoRoomError": "farspan.kv.memory.drivers.driver",
    "PagePool": "farspan.kv.memory.pages",
    "RadixError": "farspan.kv.tree.results",
    "RadixTree": "farspan.kv.tree.radix",
    "SegmentPool": "farspan.kv.memory.segments",
}

__all__ = [
    "Cap",
    "CudaDriver",
    "DriverError",
    "ElasticKVCache",
    "HostDriver",
    "KVCacheError",
    "KVError",
    "KVOptions",
    "LayerRetention",
    "NoRoomError",
    "PagePool",
    "RadixError",
    "RadixTree",
    "SegmentPool",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
