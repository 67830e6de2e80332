"""Which results a time may be taken from."""

from __future__ import annotations

from farspan.measurement.analysis.measure import Result
from farspan.measurement.request_status import Status

_ANSWERED = (Status.OK, Status.WRONG_ANSWER)


def is_trusted(result: Result) -> bool:
    """Tell whether a result's times are those of a prompt as asked for that is not known to be warm."""
    return result.status in _ANSWERED and "warm" not in result.labels and result.ttft_s is not None
