"""SGLang's server with the API key from the environment: its own way shows it to everybody.

Run by the Python of SGLang's environment, where nothing of aimind is. SGLang 0.5 takes its key as an argument
alone, or from a file whose content becomes arguments, and writes all of them into its log. Here the arguments
of this process get it after its start, where the list of processes does not have it, and no line of the log.
"""

from __future__ import annotations

import logging
import os
import runpy
import sys
from typing import Any

KEY = "SGLANG_API_KEY"


def keep_out_of_the_log(key: str) -> None:
    """Each record of this process has stars in place of the key."""
    make = logging.getLogRecordFactory()

    def masked(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        try:
            text = record.getMessage()
        except (TypeError, ValueError):  # a mistake of who logs it, of which the handlers will tell
            text = f"{record.msg} {record.args}"
        if key in text:
            record.msg, record.args = text.replace(key, "***"), ()
        return record

    logging.setLogRecordFactory(masked)


# The processes that it starts import its own module, not this one.
if __name__ == "__main__":
    key = os.environ.pop(KEY, "")
    if key:
        keep_out_of_the_log(key)
        sys.argv.append(f"--api-key={key}")
    runpy.run_module("sglang.launch_server", run_name="__main__", alter_sys=True)
