"""Common to all tests."""

import os
import signal

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
    """Undo what a launcher such as nohup or a shell's background job leaves behind.

    Programs under test inherit ignored signals, and would then not notice the Ctrl-C and hang-up they are sent.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
