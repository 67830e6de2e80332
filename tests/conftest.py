"""Common to all tests."""

import signal


def pytest_configure() -> None:
    """Undo what a launcher such as nohup or a shell's background job leaves behind.

    Programs under test inherit ignored signals, and would then not notice the Ctrl-C and hang-up they are sent.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
