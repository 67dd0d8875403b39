"""What is known of the end of a process: its signal, and the stacks that it left."""

import re
import signal
from dataclasses import dataclass

_FRAME = re.compile(r'File "(?P<file>[^"]*)", line (?P<line>\d+) in (?P<function>\S+)')
_TIMEOUT = re.compile(r"^Timeout \((?P<time>[\d:.]+)\)!", re.MULTILINE)
_MOST_CHARACTERS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """The end of a process.

    Attributes:
        cause: In words, short.
        stack: What every thread was at, as far as it could still say so.
    """

    cause: str
    stack: str


def post_mortem(code: int, stack: str, by_kernel: bool) -> Death:
    """What ended a process.

    Args:
        code: Its exit code; the negative number of a signal.
        stack: What Python's fault handler wrote.
        by_kernel: Whether the kernel has just ended a process for want of memory.
    """
    stack = stack[:_MOST_CHARACTERS]
    timeout = _TIMEOUT.search(stack)
    if timeout:
        cause = f"no step within the time limit of {timeout['time']}"
    elif code == -signal.SIGKILL and by_kernel:
        cause = "SIGKILL by the kernel, which had no memory left"
    elif code == -signal.SIGKILL:
        cause = "SIGKILL, as when memory runs out or somebody ends it"
    elif code < 0:
        cause = f"signal {signal.Signals(-code).name}"
    else:
        cause = f"exit code {code}"
    where = _innermost(stack)
    return Death(cause=f"{cause} in {where}" if where else cause, stack=stack)


def _innermost(stack: str) -> str:
    """The innermost frame of the thread that crashed; for a time limit, of the first thread that is in our code."""
    current = stack.partition("Current thread")[2].partition("\n\n")[0]
    threads = [current] if current else stack.split("\n\n")
    ours = [thread for thread in threads if "imaging_pipeline" in thread and "_end_with_supervisor" not in thread]
    for thread in ours or ([current] if current else []):
        frame = _FRAME.search(thread)
        if frame is not None and not ours_waits(frame["function"]):
            return f"{frame['file'].rpartition('/')[2]}:{frame['line']} {frame['function']}"
    return ""


def ours_waits(function: str) -> bool:
    """Whether a frame merely waits for another thread."""
    return function in ("wait", "acquire", "select", "poll", "_recv", "read")
