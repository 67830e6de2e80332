"""What the doctor finds in the log of a server that was measured, as a campaign keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from farspan.diagnosis.examine import examine
from farspan.diagnosis.sources import read_source
from farspan.engines.logs.findings import Finding, Severity
from farspan.proof.keep_log import LOG_FILE


def examine_kept_log(folder: Path) -> list[dict[str, Any]]:
    """Examine the log in a run folder; nothing where there is none."""
    log = folder / LOG_FILE
    found = examine(read_source(str(log))).findings if log.is_file() else ()
    return [record_finding(finding) for finding in found if finding.severity is not Severity.INFO]


def record_finding(finding: Finding) -> dict[str, Any]:
    """A finding as plain JSON."""
    return {
        "id": finding.id,
        "severity": finding.severity.value,
        "cause": finding.cause,
        "fix": list(finding.fix),
    }
