"""The tasks: planted text, question, and the scoring of replies."""

from __future__ import annotations

from farspan.errors import InputError
from farspan.prompts.tasks.chains import chain, variable_tracking
from farspan.prompts.tasks.common_words import common_words, frequent_words
from farspan.prompts.tasks.facts import last_update, multi_key, multi_needle, needle
from farspan.prompts.tasks.items import count, list_items, summarise
from farspan.prompts.tasks.task import Planted, Task, TaskMaker, TaskRequest

TASKS: dict[str, TaskMaker] = {
    "summarise": summarise,
    "needle": needle,
    "multi-needle": multi_needle,
    "multi-key": multi_key,
    "chain": chain,
    "count": count,
    "list": list_items,
    "last-update": last_update,
    "variable-tracking": variable_tracking,
    "common-words": common_words,
    "frequent-words": frequent_words,
}

# As other tools and other English have them.
_SPELLINGS = {
    "summarize": "summarise",
    "summary": "summarise",
    "summarization": "summarise",
    "niah": "needle",
    "passkey": "needle",
    "vt": "variable-tracking",
    "cwe": "common-words",
    "fwe": "frequent-words",
}


def parse_task(text: str) -> str:
    """Read the name of a task in any case, with dashes or underscores, or as other tools call it.

    Raises:
        InputError: There is no such task.
    """
    wanted = text.strip().lower().replace("_", "-")
    found = _SPELLINGS.get(wanted, wanted)
    if found not in TASKS:
        raise InputError(f"there is no task {text!r}", f"use one of {', '.join(TASKS)}")
    return found


__all__ = ["TASKS", "Planted", "Task", "TaskMaker", "TaskRequest", "parse_task"]
