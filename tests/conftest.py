"""Common to all tests."""

import os
import signal
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings

# How long an example takes depends on what else the machine does: no test fails for that. Fixtures that property
# tests use are folders and models nobody changes. The gate gives the same answer twice; by hand every run tries
# examples that were never tried.
settings.register_profile(
    "any machine",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    print_blob=True,
)
settings.load_profile("any machine")


def pytest_configure() -> None:
    """Leave the user's own data alone, and undo what a launcher such as nohup or a background job leaves behind.

    Programs under test inherit ignored signals, and would then not notice the Ctrl-C and hang-up they are sent.
    """
    # What this machine was calibrated to must not move golden answers.
    os.environ["XDG_DATA_HOME"] = str(Path(tempfile.gettempdir()) / f"farspan-tests-{os.getpid()}")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
