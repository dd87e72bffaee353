"""Instruction data from a model at an endpoint: self-instruct, resumable, within a budget."""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhuzi._show import count
from zhuzi.endpoint import Client, Endpoint, RefusedPromptError, require_no_key
from zhuzi.errors import OVERWRITE, EndpointError, InputError, OutputExistsError, naming
from zhuzi.instruct import journal as journals
from zhuzi.instruct.budget import Budget
from zhuzi.instruct.collection import CollectedInstructions, Collection
from zhuzi.instruct.filters import Filters
from zhuzi.instruct.journal import Journal, Outcome
from zhuzi.instruct.prompts import Material, make_prompt
from zhuzi.record.lock import locked
from zhuzi.record.marks import FileRecord
from zhuzi.record.output import new_file
from zhuzi.record.place import PathLike, place_of, require_free_file
from zhuzi.record.provenance import stamped

#: What is added to the name of the output for the file that says where each record came from. No reader of a
#: folder takes a file of this ending for records.
SOURCES = ".sources.zhuzi.json"

#: Records that one call asks for, as published.
PER_CALL = 20

#: Calls of a collection for which no limit is given.
DEFAULT_CALLS = 100

# Prompts refused before any was answered, after which the request itself must be wrong.
_REFUSED_AT_FIRST = 3

_log = logging.getLogger("zhuzi.instruct")


@dataclass(frozen=True)
class Progress:
    """How far a collection is."""

    calls: int
    in_flight: int
    records: int
    tokens: int
    cost: float
    retried: int


def collect_instructions(
    out: PathLike,
    endpoint: Endpoint,
    *,
    seeds: PathLike | None = None,
    topics: PathLike | None = None,
    tasks: PathLike | None = None,
    budget: Budget | None = None,
    filters: Filters | None = None,
    per_call: int = PER_CALL,
    parallel: int = 4,
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[Progress], object] | None = None,
) -> CollectedInstructions:
    """Collect Alpaca records from a model, as self-instruct does, and write them to `out` (JSON Lines).

    Each call shows examples and asks for `per_call` records, each of a type of task and a topic drawn at
    random. Which records are kept, and where the collection ends, depends on the answers in the order of
    their calls alone. Answers are kept beside `out` (in `.NAME.answers`) as they come: interrupted or killed
    at any moment, the same call goes on, and gives the file of an uninterrupted run if the endpoint gives the
    same answers. `NAME.sources.zhuzi.json` says where each record came from.

    Args:
        seeds: example records, Alpaca's or self-instruct's seed tasks; the package's own by default.
        topics: a text file with one topic a line; the package's own by default.
        tasks: the same for types of task.
        budget: where it ends; 100 calls by default. It may be raised later: no call is sent twice.
        parallel: calls in flight at the same time.
        seed: decides the draws.
        overwrite: replace the file, and discard the answers if they are those of another collection.
        progress: called after each answer.

    Raises:
        OutputExistsError: `out` is taken, or its answers are those of another collection.
        EndpointError: no answer, a key that is refused, another protocol. What was answered is kept.
        InputError: seeds, topics or tasks that cannot be read; answers without any record to keep.
        ValueError: a setting out of range, or a key that is not set.
    """
    for name, value in (("per_call", per_call), ("parallel", parallel)):
        if value < 1:
            raise ValueError(f"{name}: want 1 or more, not {value}")
    inputs = [path for path in (seeds, topics, tasks) if path is not None]
    taken = _taken(out, overwrite, inputs)
    place = place_of(out)
    if place.suffix.lower() not in {".jsonl", ".ndjson", ".json"}:
        raise ValueError(f"{out}: want a name that ends in .jsonl, from which `zhuzi sft` knows the records")
    material = Material.read(*(None if path is None else Path(path) for path in (seeds, topics, tasks)))
    told = {"model": endpoint.model, "extra": dict(endpoint.settings)}
    require_no_key(endpoint.key_env, told | vars(material))
    budget = budget or Budget()
    if not budget.is_set:
        budget = Budget(max_calls=DEFAULT_CALLS, price_in=budget.price_in, price_out=budget.price_out)
    about = {
        "endpoint": endpoint.address,
        "model": endpoint.model,
        "settings": dict(endpoint.settings),
        "seed": seed,
        "per_call": per_call,
        **material.digests,
    }
    collection = Collection(
        material, seed=seed, per_call=per_call, budget=budget, filters=filters or Filters()
    )
    folder = journals.folder_of(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    with _claimed(folder, about, overwrite), Journal(folder) as journal:
        run = _Run(collection, journal, endpoint, parallel, progress)
        run.read_journal()
        if taken is not None:
            _require_the_file_of(collection, out, taken)
            return run.report(out, "already")
        run.ask()
        _require_records(collection, endpoint)
        _write(collection, out, overwrite, inputs, about)
        return run.report(out, "finished")


def _require_the_file_of(collection: Collection, out: PathLike, taken: OutputExistsError) -> None:
    """Raise unless `out` holds exactly the collection's records, and the collection is complete."""
    if collection.end is None:
        # The file of a smaller budget is not replaced unasked.
        raise naming(
            OutputExistsError,
            f"{out}: already there, from {count(collection.calls, 'call')}; go on with ",
            OVERWRITE,
            ", or choose another name",
        )
    digest = hashlib.sha256()
    for line in collection.lines():
        digest.update(line.encode())
    with place_of(out).open("rb") as file:
        if hashlib.file_digest(file, "sha256").digest() != digest.digest():
            raise taken


def _write(
    collection: Collection, out: PathLike, overwrite: bool, inputs: list[PathLike], about: dict[str, Any]
) -> None:
    """Write the records and, beside them, where each came from."""
    replace = overwrite or not os.path.lexists(place_of(out))
    with new_file(out, kind="instructions", overwrite=replace, inputs=inputs, endings=(SOURCES, "")) as made:
        with made.with_name(made.name + SOURCES).open("w", encoding="utf-8") as file:
            file.writelines(collection.source_lines(stamped("instruction sources", about)))
        with made.open("w", encoding="utf-8") as file:
            file.writelines(collection.lines())


def _taken(out: PathLike, overwrite: bool, inputs: list[PathLike]) -> OutputExistsError | None:
    """Why `out` cannot be written, if it may be what the same command wrote before; raises otherwise."""
    place = place_of(out)
    # A kill may leave the file of the sources, which is put there first: it is replaced.
    replace = overwrite or not os.path.lexists(place)
    try:
        require_free_file(out, overwrite=replace, inputs=inputs, endings=(SOURCES, ""))
    except OutputExistsError as error:
        ours = place.is_file() and FileRecord(place).holds(place)
        if replace or not ours or not journals.holds_outcomes(journals.folder_of(place)):
            raise
        return error
    return None


@contextmanager
def _claimed(folder: Path, about: dict[str, Any], overwrite: bool) -> Iterator[None]:
    """The folder of the journal, for this process alone; removed again if it holds no answer."""
    folder.mkdir(exist_ok=True)
    with locked(folder, "collects"):
        journals.claim(folder, about, overwrite=overwrite)
        try:
            yield
        finally:
            journals.remove_empty(folder)


def _require_records(collection: Collection, endpoint: Endpoint) -> None:
    if collection.records:
        return
    why = ", ".join(f"{reason} {n:,}" for reason, n in collection.left_out.most_common() if n)
    why = f"records were left out: {why}" if why else f"the first answer begins {collection.first_unread!r}"
    raise InputError(
        f"{endpoint.address}: no record to keep in the answers to {collection.calls:,} calls ({why}); see "
        f"what {endpoint.model} writes, or ask a larger model"
    )


class _Run:
    """Asks for what a collection lacks: threads ask, this one keeps the order."""

    def __init__(
        self,
        collection: Collection,
        journal: Journal,
        endpoint: Endpoint,
        parallel: int,
        progress: Callable[[Progress], object] | None,
    ) -> None:
        self.collection, self.journal, self.endpoint = collection, journal, endpoint
        self._parallel, self._progress = parallel, progress
        self._ready: dict[int, Outcome] = {}  # outcomes that wait for earlier ones
        self._spent: dict[int, tuple[int, int]] = {}  # tokens of prompt and answer, by call
        self._total = (0, 0)
        self._missing: list[int] = []  # calls that an earlier run lost, the next one last
        self._fresh = 0  # the first call that was never sent
        self._in_flight = 0
        self._answered = False
        self._refused: list[Outcome] = []  # before anything was answered
        self._lost = 0
        self._stop = threading.Event()
        self._calls: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Outcome | BaseException] = queue.SimpleQueue()
        self._client: Client | None = None

    def read_journal(self) -> None:
        """Take what earlier runs were answered."""
        for outcome in self.journal.outcomes():
            self._add(outcome)
        ended = self.journal.ended
        self._fresh = max(ended, default=-1) + 1
        self._missing = sorted(set(range(self._fresh)) - ended, reverse=True)
        self._lost = max(self.journal.sent - len(ended), 0)

    def ask(self) -> None:
        """Ask until the collection ends.

        Raises what `collect_instructions` raises. Answers in flight are waited for first, as they are paid
        for; a second interrupt leaves them.
        """
        if self.collection.end is not None:
            return
        with Client(self.endpoint, self._stop) as client:
            self._client = client
            for _ in range(self._parallel):
                threading.Thread(target=self._work, args=(client,), daemon=True).start()
            try:
                while self.collection.end is None:
                    self._send()
                    if not self._in_flight:
                        break
                    self._receive()
            except BaseException as error:
                self._drain(error)
                raise
            self._drain(None)
        if not self._answered and self._refused:
            raise self._all_refused()

    def report(self, out: PathLike, outcome: str) -> CollectedInstructions:
        """What was collected."""
        held = self.collection
        return CollectedInstructions(
            path=os.fspath(out),
            records=len(held.records),
            calls=held.calls,
            prompt_tokens=held.prompt_tokens,
            answer_tokens=held.answer_tokens,
            cost=held.cost,
            ended_by=held.end or "",
            left_out={reason: n for reason, n in held.left_out.items() if n},
            refused=dict(held.refused),
            cut_answers=held.cut_answers,
            answers_without_records=held.answers_without_records,
            estimated=held.estimated,
            unused_answers=len(self._ready),
            lost_calls=self._lost,
            retried=dict(self._client.retried) if self._client else {},
            outcome=outcome,
        )

    def _send(self) -> None:
        """Send calls as long as the budget allows, and no more than are likely to be needed."""
        while self._in_flight < self._parallel and self._may_be_needed():
            call = self._missing[-1] if self._missing else self._fresh
            limit = self.collection.budget.max_calls
            if (limit is not None and call >= limit) or self.collection.budget.is_spent(*self._before(call)):
                return
            if self._missing:
                self._missing.pop()
            else:
                self._fresh += 1
            self.journal.send(call)
            self._in_flight += 1
            self._calls.put(call)

    def _before(self, call: int) -> tuple[int, int]:
        """Tokens of the answers to earlier calls."""
        if call >= self._fresh:
            return self._total
        earlier = [tokens for number, tokens in self._spent.items() if number < call]
        return sum(given for given, _ in earlier), sum(made for _, made in earlier)

    def _may_be_needed(self) -> bool:
        """Whether the answers in flight are likely to fall short of the records wanted."""
        held = self.collection
        wanted = held.budget.records
        waiting = self._in_flight + len(self._ready)
        if wanted is None or not waiting:
            return True
        each = len(held.records) / held.calls if held.calls else held.per_call
        return len(held.records) + waiting * each < wanted

    def _receive(self) -> None:
        """Take one result; raises the error that a thread met."""
        result = self._results.get()
        self._in_flight -= 1
        if isinstance(result, BaseException):
            raise result
        self._keep(result)

    def _keep(self, outcome: Outcome) -> None:
        if outcome.refused is None:
            self._answered = True
            for held in self._refused:
                self.journal.end(held)
                self._add(held)
            self._refused.clear()
        elif not self._answered:
            # Not kept: a setting that is wrong for the endpoint is mended, and the calls are asked again.
            self._refused.append(outcome)
            if len(self._refused) >= _REFUSED_AT_FIRST:
                raise self._all_refused()
            return
        else:
            self.journal.end(outcome)
        self._add(outcome)

    def _add(self, outcome: Outcome) -> None:
        """Count what was spent, and take the outcomes whose turn it is."""
        tokens = outcome.prompt_tokens, outcome.answer_tokens
        self._answered = self._answered or outcome.refused is None
        self._spent[outcome.call] = tokens
        self._total = self._total[0] + tokens[0], self._total[1] + tokens[1]
        self._ready[outcome.call] = outcome
        held = self.collection
        while held.end is None and held.calls in self._ready:
            held.take(self._ready.pop(held.calls))
        if self._progress is not None and self._client is not None:
            retried = sum(self._client.retried.values())
            self._progress(
                Progress(
                    held.calls + len(self._ready),
                    self._in_flight,
                    len(held.records),
                    sum(self._total),
                    held.budget.price(*self._total),
                    retried,
                )
            )

    def _drain(self, error: BaseException | None) -> None:
        """Wait for the answers in flight and keep them, and end the threads."""
        self._stop.set()
        for _ in range(self._parallel):
            self._calls.put(None)
        if isinstance(error, KeyboardInterrupt) and self._in_flight:
            _log.info("waiting for %d answers in flight; interrupt again to leave them", self._in_flight)
        while self._in_flight:
            result = self._results.get()
            self._in_flight -= 1
            if isinstance(result, Outcome) and (result.refused is None or self._answered):
                self._keep(result)
        if error is not None and self._spent:
            error.add_note(f"kept: {count(len(self._spent), 'answer')}; the same command goes on")

    def _all_refused(self) -> EndpointError:
        return EndpointError(
            f"{self.endpoint.address}: refuses every prompt: {self._refused[0].refused}; see the model's "
            "name and the settings of the request"
        )

    def _work(self, client: Client) -> None:
        """A thread: asks the calls that it is given; answers are on the disk before they count."""
        held = self.collection
        while (call := self._calls.get()) is not None:
            try:
                prompt = make_prompt(held.material, seed=held.seed, call=call, count=held.per_call)
                answer = client.ask([{"role": "user", "content": prompt.text}])
                outcome = Outcome(
                    call,
                    answer.text,
                    answer.cut,
                    answer.prompt_tokens,
                    answer.answer_tokens,
                    answer.estimated,
                )
                self.journal.end(outcome)
            except RefusedPromptError as error:
                self._results.put(Outcome(call, refused=str(error)))
            except BaseException as error:
                self._results.put(error)
            else:
                self._results.put(outcome)
