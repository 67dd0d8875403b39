"""Who did what to a RESULTS, and how it ended: a log that is only ever added to, each line chained to the one before.

A line is canonical JSON with the SHA-256 of the line before (`previous`) and a seal by the secret of RESULTS. Whoever
changes, removes or inserts a line without knowing the secret breaks seal or chain. What a chain cannot tell, lines
cut off at its end, is told by a sealed note of the last line beside it. No line holds a path of the input: folders are
named after patients.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from imaging_pipeline import __version__
from imaging_pipeline.errors import PipelineError
from imaging_pipeline.host import host_name, now, user_name
from imaging_pipeline.results.publish import publish_json
from imaging_pipeline.results.seal import FIELD, canonical, is_sealed, seal
from imaging_pipeline.stores import Store

LOG = "audit.jsonl"
HEAD = "audit.head"

_FIRST = "0" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The log of a RESULTS.

    Attributes:
        out: RESULTS.
        seal_key: Seals its lines.
    """

    out: Store
    seal_key: bytes = field(repr=False)

    def record(self, event: str, **facts: Any) -> None:
        """Add a line: what happened, when, on which machine and by which of its users.

        Args:
            event: In a word.
            facts: Whatever belongs to it, as JSON has it.

        Raises:
            PipelineError: `write-failed` or `store-unreachable`.
        """
        who = {"user": user_name(), "host": host_name(), "process": os.getpid(), "version": __version__}
        told = {"at": now(), "event": event, **who, **facts}
        written: list[dict[str, Any]] = []

        def line(before: bytes) -> bytes:
            content = {"number": _number_of(before) + 1, "previous": _digest_of(before), **told}
            content[FIELD] = seal(content, self.seal_key)
            written[:] = [content]
            return canonical(content)

        self.out.append(LOG, line)
        head = {"lines": written[0]["number"], "sha256": hashlib.sha256(canonical(written[0])).hexdigest()}
        publish_json(self.out, HEAD, {**head, FIELD: seal(head, self.seal_key)})

    @contextmanager
    def attending(self, command: str, **facts: Any) -> Iterator[dict[str, Any]]:
        """Lines at the beginning and the end of a command, however it ends.

        Args:
            command: Its name.
            facts: What is known at its beginning.

        Yields:
            What is to be told at its end; the error that ends it is added by itself.
        """
        self.record("begun", command=command, **facts)
        outcome: dict[str, Any] = {}
        try:
            yield outcome
        except BaseException as error:
            code = error.code.value if isinstance(error, PipelineError) else type(error).__name__
            outcome.update(error=code, exit_code=2 if isinstance(error, PipelineError) else 1)
            raise
        finally:
            known = {name: facts[name] for name in ("run_id",) if name in facts}
            self.record("ended", command=command, **known, **outcome)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a log is worth.

    Attributes:
        n_lines: Its lines.
        breaks: What is wrong with it, in words.
        run_ids: Runs that it knows.
        unended: Commands that began and did not end: killed, or still at work.
    """

    n_lines: int
    breaks: tuple[str, ...]
    run_ids: frozenset[str]
    unended: tuple[str, ...]


def check_audit(audit: Audit) -> Checked:
    """Follow the chain from its first line to its last.

    Raises:
        OSError: It cannot be read.
    """
    breaks: list[str] = []
    lines = list(audit.out.lines(LOG))
    before, was_sound, expected = b"", True, 1
    begun: dict[str, str] = {}
    run_ids = set()
    for number, line in enumerate(lines, 1):
        content = _parsed(line)
        is_sound = is_sealed(content, audit.seal_key)
        if not is_sound:
            breaks.append(f"line {number} is not as it was written")
        elif was_sound and content["previous"] != _digest_of(before):
            gap = content["number"] - expected
            breaks.append(f"before line {number} " + (f"{gap} lines are missing" if gap > 0 else "the chain is broken"))
        if is_sound:
            run_ids.add(content.get("run_id", ""))
            _follow(begun, content)
        expected = content.get("number", expected) + 1 if is_sound else expected + 1
        before, was_sound = line, is_sound
    breaks += _of_the_end(audit, lines)
    return Checked(
        n_lines=len(lines), breaks=tuple(breaks), run_ids=frozenset(run_ids - {""}), unended=tuple(begun.values())
    )


def _of_the_end(audit: Audit, lines: list[bytes]) -> Iterator[str]:
    """The note of the last line lags behind after a crash; it is never ahead."""
    try:
        head = _parsed(audit.out.read(HEAD))
    except OSError:
        head = {}
    if not is_sealed(head, audit.seal_key):
        if lines or head:
            yield f"{HEAD} is missing or not as it was written"
    elif len(lines) < head["lines"]:
        yield f"{head['lines'] - len(lines)} lines are missing at the end: {len(lines)} of {head['lines']} are there"
    elif hashlib.sha256(lines[head["lines"] - 1]).hexdigest() != head["sha256"]:
        yield f"line {head['lines']} is not the one that {HEAD} names"


def _follow(begun: dict[str, str], content: dict[str, Any]) -> None:
    who = f"{content.get('host')} {content.get('process')} {content.get('command')}"
    if content["event"] == "begun":
        begun[who] = f"{content.get('command')} of {content['at']} by {content.get('user')} on {content.get('host')}"
    elif content["event"] == "ended":
        begun.pop(who, None)


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _number_of(line: bytes) -> int:
    number = _parsed(line).get("number", 0)
    return number if isinstance(number, int) else 0


def _digest_of(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest() if line else _FIRST
