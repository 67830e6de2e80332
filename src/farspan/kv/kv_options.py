"""How an elastic KV cache behaves."""

from __future__ import annotations

from dataclasses import dataclass

from farspan.errors import InputError

DEFAULT_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class KVOptions:
    """Options of the elastic KV cache.

    Attributes:
        capacity_gib: The most keys and values may take, GiB. None follows the device: `share` of what is free there
            and what the cache holds, read again before each growth.
        share: See `capacity_gib`; above 0, at most 1.
        fp8: Keep keys and values as FP8 E4M3 with a scale a head and position, not in the model's dtype.
        page_tokens: Positions a page: what is allocated, shared and matched in one piece.
        segment_mib: Memory that one layer grows by, MiB, a power of two. None chooses by the capacity.
        prefix_caching: Whether later requests reuse the prefixes of earlier ones.
        quiet_s: Memory that has been empty for this long, in seconds, goes back to the device.
        keep_prefixes_s: Prefixes leave the device, to the host tier while it has room, once no request has been in
            progress for this long, in seconds. None keeps them until their memory is needed.
        host_gib: Host memory for prefixes evicted from the device, GiB; 0 keeps none.
        debug: Poison pages that nobody holds and check all that is read, which is slow. The environment variable
            FARSPAN_KV_DEBUG=1 turns it on too.
    """

    capacity_gib: float | None = None
    share: float = DEFAULT_SHARE
    fp8: bool = False
    page_tokens: int = 16
    segment_mib: int | None = None
    prefix_caching: bool = True
    quiet_s: float = 5.0
    keep_prefixes_s: float | None = None
    host_gib: float = 0.0
    debug: bool = False

    def __post_init__(self) -> None:
        if self.capacity_gib is not None and self.capacity_gib <= 0:
            raise InputError(f"capacity_gib is {self.capacity_gib}", "it must be positive")
        if not 0 < self.share <= 1:
            raise InputError(f"share is {self.share}", "it must be above 0 and at most 1")
        if self.page_tokens < 1:
            raise InputError(f"page_tokens is {self.page_tokens}", "it must be at least 1")
        if self.segment_mib is not None and (
            self.segment_mib < 1 or self.segment_mib & (self.segment_mib - 1)
        ):
            raise InputError(f"segment_mib is {self.segment_mib}", "it must be a power of two")
        if self.quiet_s < 0 or (self.keep_prefixes_s is not None and self.keep_prefixes_s < 0):
            raise InputError("a time is negative", "give seconds, 0 or more")
        if self.host_gib < 0:
            raise InputError(f"host_gib is {self.host_gib}", "it must be 0 or more")
