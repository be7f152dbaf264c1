"""A site's ledger: every noisy step it is charged for, on disk, before the step is taken. Epsilon comes from here
alone.

Guarantee:
    When `Ledger.record_intent` returns, the charge survives a kill and a power cut (as far as the disk honours fsync),
    and all charges together, this one included, are within the site's cap at the ledger's delta, also where each plan
    was chosen after seeing what came of the last (`filter` has the rules, the theorem and its assumptions). So
    whatever is killed whenever, the ledger never holds fewer steps than were taken; a retried round is charged again.
    One process at a time: the lock is the kernel's, so a killed process frees it. Nothing lowers a charge.

What is noticed: an edited, removed, added or reordered row, a truncated, half-written or replaced file (hash chain, and
SQLite's own checks); and, given a witness folder outside the state directory, also a deleted or rolled-back ledger.

What can't be: somebody who may write both folders can set both back, or rewrite the whole chain. Without a witness, a
deleted ledger looks like a new one, and an older copy like the newest. Locks and fsync need a local file system.

A simulation has hundreds of ledgers and no patient to lose: it may open them with ``durable=False``. Then nothing waits
for the disk: a charge survives a kill of the process, as before, but not a power cut or a crash of the machine.
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Self

from fedrad.errors import BudgetExhausted, LedgerError, LedgerTampered, PlanError
from fedrad.files import private_folder
from fedrad.ledger import chain
from fedrad.ledger.chain import Row
from fedrad.ledger.durable import explained, locked
from fedrad.ledger.file import LedgerFile, found
from fedrad.ledger.room import steps_left
from fedrad.ledger.witness import Witness, is_behind, read_witness, witness_file, write_witness
from fedrad.privacy import accounting
from fedrad.privacy.accounting import Event
from fedrad.privacy.filter import FILTER, Account, Charge, Founding
from fedrad.privacy.plan import PrivacyPlan

_fields = lru_cache(maxsize=256)(asdict)  # of a plan, to be read only; a simulation's hospitals follow a few


class Ledger:
    """Open it with `Ledger.open`, as a context manager; it holds the lock until it is closed."""

    def __init__(
        self, directory: Path, *, site: str, cap: float, witness: Path | None, lock: int, durable: bool
    ) -> None:
        self._directory, self._site, self._cap, self._witness = directory, site, cap, witness
        self.durable = durable
        self._file = LedgerFile(directory, lock=lock, durable=durable)
        self._path, self._database = self._file.path, self._file.database
        self._version = -1
        self._delta = 0.0
        self._founding = Founding(cap, 1.0)
        self._genesis = ""
        self._rows: list[Row] = []
        self._hashes: list[str] = []

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        site: str,
        cap: float,
        delta: float,
        witness: Path | None = None,
        durable: bool = True,
        mechanism: tuple[float, float] | None = None,
        shares_with: tuple[str, ...] = (),
    ) -> Ledger:
        """Opens the site's ledger, or founds it where there has been none, and checks all of it.

        Args:
            directory: the site's state directory (made 0700).
            site: the site's name; it names the witness.
            cap: the epsilon that the site never exceeds; ``math.inf`` only for simulations.
                The filter's order is fitted to the cap at the founding; another cap later costs some epsilon.
            delta: the delta that epsilon is stated at. Fixed when the ledger is founded.
            witness: a folder outside ``directory`` (and outside its backups) that remembers the ledger's length.
            durable: wait until each charge is on the disk. False is for simulated hospitals, which have no witness.
            mechanism: (sampling rate, noise multiplier) that every step must have. Fixed when the ledger is founded,
                also for later calls that don't name it.
            shares_with: sites whose ledgers may be on the same reports (`bindings`): noted among the founding facts as
                long as nothing is charged.

        Raises:
            LedgerBusy: another process has it open.
            LedgerTampered: rows, or the whole file, were changed or removed.
            LedgerError: it can't be written, or it was founded for another site, delta or mechanism.
        """
        if not cap >= 0:
            raise LedgerError(f"The epsilon cap must be 0 or more, not {cap}.")
        if not accounting.SMALLEST_DELTA <= delta < 1:
            raise LedgerError(f"delta must be at least {accounting.SMALLEST_DELTA} and below 1, not {delta}.")
        if witness is not None and not durable:
            raise LedgerError("A ledger with a witness is a real hospital's: it must be durable.")
        directory = Path(directory).absolute()
        with explained(directory):
            private_folder(directory)
            lock = locked(directory)
        try:
            seen = read_witness(witness, site) if witness else None
            if not (directory / "ledger.sqlite").exists():
                if seen is not None and seen.count > 0:
                    raise LedgerTampered(
                        f"Site {site!r} has no ledger in {directory}, but {seen.count} charges are on record "
                        f"({witness_file(witness, site) if witness else ''}). Restore the newest ledger.sqlite "
                        f"(it was in {seen.directory}). A new folder is no new budget."
                    )
                with explained(directory):
                    founding = Founding(float(cap), float(delta), mechanism)
                    found(directory, site=site, founding=founding, durable=durable)
            with explained(directory):
                ledger = cls(directory, site=site, cap=float(cap), witness=witness, lock=lock, durable=durable)
        except BaseException:
            os.close(lock)
            raise
        try:
            ledger.verify()
            if ledger._delta != delta:
                raise LedgerError(
                    f"The ledger in {directory} states epsilon at delta {ledger._delta}, and that is fixed. "
                    f"Set the site's delta back to {ledger._delta} instead of {delta}."
                )
            if mechanism is not None and ledger._founding.mechanism != mechanism:
                raise LedgerError(
                    f"The ledger in {directory} was founded {_mechanism_in_words(ledger._founding.mechanism)}, and that"
                    f" is fixed; the site now asks for one {_mechanism_in_words(mechanism)}. Set batch, declared-size"
                    " and noise-multiplier back to what they were."
                )
            ledger._agree_with_witness()
            if shares_with and not ledger._rows:
                ledger._file.note_consent(shares_with)
                ledger.verify()
                ledger._agree_with_witness()
        except BaseException:
            ledger.close()
            raise
        return ledger

    @classmethod
    def adopt(cls, directory: Path, *, site: str, delta: float, witness: Path) -> int:
        """Registers an existing ledger with a witness folder that knows nothing of it: after a move, or a lost witness.

        To be called by a person, who vouches that this is the newest copy of the ledger.

        Returns:
            How many charges it holds.

        Raises:
            LedgerTampered: the chain is broken, or the folder knows this site and says something else.
        """
        if not (Path(directory) / "ledger.sqlite").exists():
            raise LedgerError(f"There is no ledger in {directory}.")
        with cls.open(directory, site=site, cap=math.inf, delta=delta, witness=None) as ledger:
            ledger._witness = witness
            if read_witness(witness, site) is None:
                ledger._testify()
            ledger._agree_with_witness()
            return len(ledger._rows)

    def record_intent(self, *, run: str, round: int, plan: PrivacyPlan, steps: int) -> int:
        """Charges all noisy steps of a round. Only after it has returned may the first of them be taken.

        Returns:
            The charge's number, for `mark_done`.

        Raises:
            BudgetExhausted: the steps would exceed the cap; nothing was written.
            LedgerTampered: somebody else wrote to the ledger or its witness.
            LedgerError: it could not be written; the steps must not be taken (they may have been charged). Or the
                ledger counts another unit: one epsilon over reports and patients would be a promise to neither.
            PlanError: the number of steps is not positive.
        """
        self.check_room(plan, steps)
        seq = len(self._rows) + 1
        body = chain.canonical(
            {
                "previous": self._head(),
                "seq": seq,
                "run": run,
                "round": round,
                "steps": steps,
                "plan": _fields(plan),
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )
        hashed = chain.sha256(body)
        with self._file.writing():
            stored = self._database.execute("SELECT count(*), max(seq) FROM intent").fetchone()
            last = self._database.execute("SELECT hash FROM intent WHERE seq = ?", (seq - 1,)).fetchone()
            if stored[0] != seq - 1 or (last is not None and last[0] != self._head()):
                raise LedgerTampered(f"{self._path} was changed by somebody else while it was open.")
            self._database.execute("INSERT INTO intent VALUES (?, ?, ?)", (seq, body, hashed))
        self._rows.append(chain.parsed(body, False)[1])
        self._hashes.append(hashed)
        self._testify()
        return seq

    def check_room(self, plan: PrivacyPlan, steps: int) -> None:
        """Whether these steps could be charged now; nothing is written.

        Raises: as ``record_intent``.
        """
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
            raise PlanError(f"A round takes one step or more, not {steps}.")
        self._agree_with_witness()
        if self._rows and self._rows[-1].unit != plan.unit:
            raise LedgerError(
                f"The ledger in {self._directory} counts by {self._rows[-1].unit}, and this plan by {plan.unit}: no"
                " epsilon is true of both. Keep one privacy.unit for all runs of a site."
            )
        fixed, kind = self._founding.mechanism, (plan.sampling_rate, plan.noise_multiplier)
        if fixed is not None and kind != fixed:
            raise LedgerError(
                f"The ledger in {self._directory} was founded {_mechanism_in_words(fixed)}; this plan is one"
                f" {_mechanism_in_words(kind)}."
            )
        if self._needed(plan, steps) > self._cap:
            raise BudgetExhausted(self._why_exhausted(plan, steps))

    def _needed(self, plan: PrivacyPlan, steps: int) -> float:
        return self._founding.needed([*self.charges(), Charge(plan.event(steps), plan.steps)])

    def _why_exhausted(self, plan: PrivacyPlan, steps: int) -> str:
        charges, before = self.charges(), self.account()
        after = self._founding.account([*charges, Charge(plan.event(steps), plan.steps)])
        said = (
            f"Site {self._site!r} has spent epsilon {before.epsilon(self._delta):.6g} of {self._cap:.6g} (delta"
            f" {self._delta}; {before.words}); {steps} more steps would make it {after.epsilon(self._delta):.6g}"
            f" ({after.words}). There is room for {self.remaining_steps(plan)} steps."
        )
        if charges and after.rule == FILTER and (first := self._founding.first_plan(charges)) > self._cap:
            said += (
                f" The first plan fills the cap by itself: in full, its {charges[0].planned} steps have epsilon"
                f" {first:.6g} by the filter, so no other plan may follow it under this cap."
            )
        return said

    def mark_done(self, seq: int) -> None:
        """Notes that a charge's steps were all taken. It changes no charge."""
        if not 1 <= seq <= len(self._rows):
            raise LedgerError(f"There is no charge {seq} in {self._path}.")
        with self._file.writing():
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self._database.execute("INSERT OR IGNORE INTO done VALUES (?, ?)", (seq, now))

    def rows(self) -> list[Row]:
        """All charges, oldest first."""
        with explained(self._directory):
            done = {seq for (seq,) in self._database.execute("SELECT seq FROM done")}
        return [Row(**{**vars(row), "done": row.seq in done}) for row in self._rows]

    def events(self) -> list[Event]:
        """All charges for the accountant, one each."""
        return [row.event for row in self._rows]

    def charges(self) -> list[Charge]:
        """All charges with the number of steps that their plans have."""
        return [row.charge for row in self._rows]

    def account(self) -> Account:
        """All charges, and the rule that counts them."""
        return self._founding.account(self.charges())

    def epsilon(self) -> float:
        """What all charges together have spent at the ledger's delta."""
        return self.account().epsilon(self._delta)

    def remaining_steps(self, plan: PrivacyPlan) -> int:
        """How many more steps of this plan the cap has room for, at most ``plan.steps``."""
        return steps_left(lambda steps: steps == 0 or self._needed(plan, steps) <= self._cap, plan.steps)

    def verify(self) -> None:
        """Reads the whole ledger again and checks SQLite's pages, the founding facts and the chain.

        Raises:
            LedgerTampered: something was changed or removed.
        """
        self._version = self._file.version()
        read = chain.read_chain(self._database, self._path)
        if read.site != self._site:
            raise LedgerError(f"{self._path} is the ledger of site {read.site!r}, not of {self._site!r}.")
        self._delta, self._founding, self._genesis = read.delta, read.founding, read.genesis
        self._rows, self._hashes = list(read.rows), list(read.hashes)

    def close(self) -> None:
        """Closes the file and frees the lock."""
        self._file.close()

    def pause(self) -> None:
        """Frees the lock, so that any process may open the ledger, and keeps the file open for `resume`.

        For simulations, which come back to hundreds of ledgers in every round.

        Raises:
            LedgerError: it is durable: a real hospital's is checked whenever it is opened.
        """
        self._file.pause()

    def resume(self, *, site: str, cap: float, delta: float) -> bool:
        """Takes the lock again, after `pause`.

        Returns:
            False if the file may not be what was checked: it was replaced or charged meanwhile, by whomever, or this is
            another process. Close it and open it anew. (Somebody who writes around SQLite is noticed then as well.)

        Raises:
            LedgerBusy: another process has it open.
        """
        if (site, delta) != (self._site, self._delta):
            return False
        self._cap = float(cap)
        return self._file.resume(self._version)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _head(self) -> str:
        return self._hashes[-1] if self._hashes else self._genesis

    def _testify(self) -> None:
        if self._witness is not None:
            write_witness(self._witness, self._as_witnessed())

    def _agree_with_witness(self) -> None:
        """The witness must tell of this very ledger."""
        if self._witness is not None and is_behind(self._witness, self._as_witnessed(), self._hashes):
            self._testify()

    def _as_witnessed(self) -> Witness:
        return Witness(self._site, str(self._directory), len(self._rows), self._head())


def _mechanism_in_words(mechanism: tuple[float, float] | None) -> str:
    if mechanism is None:
        return "for steps of any kind"
    return f"for steps of sampling rate {mechanism[0]:g} and noise multiplier {mechanism[1]:g} only"
