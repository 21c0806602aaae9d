"""check_account: from the host's name to a login, step by step, by the code that sends."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from time import monotonic

from django.utils.translation import gettext
from django.views.decorators.debug import sensitive_variables

from prx_email_django.api.guards import check_may_send
from prx_email_django.api.queueing import enqueue
from prx_email_django.api.sending import retry_within
from prx_email_django.compose.accounts import AccountRef, account_default_from, resolve_account
from prx_email_django.compose.validation import parse_address
from prx_email_django.conf import outbox_settings
from prx_email_django.conf.references import SecretAbsent
from prx_email_django.errors import InvalidMessage, OutboxError
from prx_email_django.limits.pauses import known_state, note_success, read_account
from prx_email_django.limits.slots import Slot, release_slots, slot_or_obstacle
from prx_email_django.models import Account, OutboxMessage
from prx_email_django.models.account_validation import connection_problem
from prx_email_django.models.encrypted import DecryptionFailed
from prx_email_django.oauth.token import TokenRefused
from prx_email_django.results import AccountReport, CheckStep
from prx_email_django.rules.clock import Clock
from prx_email_django.rules.obstacles import Obstacle
from prx_email_django.rules.outcomes import Step
from prx_email_django.rules.words import in_words
from prx_email_django.rules.words import words as _
from prx_email_django.states import Status
from prx_email_django.status.advice import advice
from prx_email_django.status.reasons import obstacle_sentence
from prx_email_django.status.stored_words import shown
from prx_email_django.store.absence import unwritten
from prx_email_django.store.outbox import outbox_and_clock
from prx_email_django.transports.base import ConnectError
from prx_email_django.transports.smtp.connect import host_and_port
from prx_email_django.transports.smtp.dry_run import EnvelopeAnswer
from prx_email_django.transports.smtp.trial import failed_step, open_and_quit
from prx_email_django.worker.current import CurrentAccount
from prx_email_django.worker.network import Network
from prx_email_django.worker.token_keeper import TokenKeeper, connection_settings

#: Seconds for one answer of the server, where ``timeout`` allows as much.
ONE_ANSWER = 10.0
#: Seconds between two looks at what another thread or worker does.
LOOK = 0.05
SUBJECT = "Test of the account {name}"
BODY = "This message shows that the account {name} can send mail.\n"


def check_account(account: AccountRef, *, send_to: str | None = None, timeout: float = 20) -> AccountReport:
    """Walk from the host's name to a login, and with ``send_to`` send one message; say what to do where it fails.

    Takes a free connection of the account, and for the message its permits; ignores a pause, and a success ends a
    pause that a worker set, never one that a person set.  ``timeout``: seconds for all of it.

    Raises:
        SendInsideTransaction: inside ``atomic()``.
        WrongInstance: this is a copied database.
        AccountUnavailable, InvalidMessage: there is no such account, or ``send_to`` is no address.
    """
    steps = tuple(check_steps(account, send_to=send_to, timeout=timeout))
    return AccountReport(ok=all(step.ok for step in steps), steps=steps)


def check_steps(account: AccountRef, *, send_to: str | None = None, timeout: float = 20) -> Iterator[CheckStep]:
    """The steps of ``check_account`` as they come; raises at the call what ``check_account`` raises."""
    check_may_send("check_account")
    found = resolve_account(account, active=False)
    if send_to is not None:
        parse_address(send_to, field="send_to")
    _, clock = outbox_and_clock(None)
    return _AccountCheck(read_account(found.pk), clock=clock, until=monotonic() + timeout).run(send_to)


class _AccountCheck:
    """The check of one account: each step with its time, until the instant ``until`` (seconds of ``monotonic``)."""

    def __init__(self, account: Account, *, clock: Clock, until: float) -> None:
        self.account = account
        self.clock = clock
        self.until = until
        self._step_begun = monotonic()
        #: Set when a token has come that was being fetched.
        self._arrived = threading.Event()

    def run(self, send_to: str | None) -> Iterator[CheckStep]:
        """Yield each step, the failed one last."""
        if (name := outbox_settings().transport) != "smtp":
            yield self._step(Step.CONNECT, True, _("TRANSPORT is “%(name)s”: no server is asked", name=name))
            return
        noted: set[Slot] = set()
        try:
            problem = self._problem() or self._obstacle(noted)
            if problem:
                yield self._step(Step.CONNECT, False, problem)
                return
            if not (yield from self._shown(self._session_steps())):
                return
        finally:
            unwritten.write([partial(release_slots, noted)])
        note_success(self.account, begun_at=self.clock.now)
        if send_to is not None:
            yield self._message(send_to)

    def _problem(self) -> str:
        try:
            return connection_problem(self.account)
        except DecryptionFailed as error:
            return str(error)

    def _obstacle(self, noted: set[Slot]) -> str:
        slot = slot_or_obstacle(self.account, noted=noted, clock=self.clock, heeding=None)
        return obstacle_sentence(slot, now=self.clock.running) if isinstance(slot, Obstacle) else ""

    # The session

    def _session_steps(self) -> Iterator[CheckStep]:
        keeper = TokenKeeper(CurrentAccount(self.account, outbox=None), clock=self.clock)
        if not keeper.needed:
            yield from self._walk("", without_login=False)
            return
        try:
            yield from self._steps_with_token(keeper)
        finally:
            keeper.abandon()

    @sensitive_variables("token", "found")
    def _steps_with_token(self, keeper: TokenKeeper) -> Iterator[CheckStep]:
        """Steps of an account that logs in with a token.

        A token that must be fetched is fetched during a session without login: who waits sees steps from the first
        moment, and learns about the mail server although the token server may not answer.
        """
        found = self._token_if_there(keeper)
        is_shown = found is None or not found[1].ok
        if is_shown and not (yield from self._shown(self._walk("", without_login=True))):
            return
        token, token_step = found or self._token(keeper)
        login = None
        if token_step.ok:
            login = yield from self._until_login(token, show=not is_shown)
            if login is not None and not login.ok and keeper.refused(token, logged_in=False):
                token, token_step = self._token(keeper)  # a refused token is replaced once
                login = (yield from self._until_login(token, show=False)) if token_step.ok else None
        yield token_step
        if login is not None:
            yield login

    def _shown(self, steps: Iterator[CheckStep]) -> Generator[CheckStep, None, bool]:
        """Yield all steps; return whether the last one is well."""
        is_well = True
        for step in steps:
            is_well = step.ok
            yield step
        return is_well

    @sensitive_variables("token")
    def _until_login(self, token: str, *, show: bool) -> Generator[CheckStep, None, CheckStep | None]:
        """Walk with this token; return the step of the login, and yield those before it that are to be shown."""
        for step in self._walk(token, without_login=False):
            if step.name == Step.LOGIN:
                return step
            if show or not step.ok:
                yield step
        return None

    @sensitive_variables("token")
    def _token(self, keeper: TokenKeeper) -> tuple[str, CheckStep]:
        self._step_begun = monotonic()
        while (found := self._token_if_there(keeper)) is None:
            if monotonic() >= self.until:
                return "", self._step(Step.TOKEN, False, _("no access token: the token server does not answer"))
            if self._arrived.wait(LOOK):
                self._arrived.clear()
        return found

    @sensitive_variables("token")
    def _token_if_there(self, keeper: TokenKeeper) -> tuple[str, CheckStep] | None:
        """The token, or why there is none; None while it is being fetched."""
        try:
            token = keeper.current(done=self._arrived.set)
        except (TokenRefused, SecretAbsent) as error:
            return "", self._step(
                Step.TOKEN, False, _("no access token: %(problem)s", problem=getattr(error, "said", error))
            )
        return None if token is None else (token, self._step(Step.TOKEN, True, _("an access token is there")))

    @sensitive_variables("token", "settings")
    def _walk(self, token: str, *, without_login: bool) -> Iterator[CheckStep]:
        """Open a session on the network's thread, and yield what it has come to."""
        done: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()
        try:
            settings = connection_settings(self.account, known_state(self.account), token=token, now=self.clock.now)
        except SecretAbsent as absent:
            yield self._step(Step.LOGIN, False, absent.args[0])
            return
        sender = "" if without_login or self.account.auth_method != "none" else self._sender()
        settings = replace(
            settings,
            timeout=min(settings.timeout, ONE_ANSWER, max(1.0, self.until - monotonic())),
            auth_method="none" if without_login else settings.auth_method,
            done=lambda name, detail: done.put((name, detail)),
        )
        self._step_begun = monotonic()
        reached: list[str] = []
        with ExitStack() as stack:
            network = stack.enter_context(Network())
            opening = network.start(open_and_quit(settings, max(0.1, self.until - monotonic()), sender))
            opening.add_done_callback(lambda _ended: done.put(None))
            while (passed := done.get()) is not None:
                name, detail = passed
                reached.append(name)
                yield self._step(Step(name), True, detail)
            ended = opening.result()
        if isinstance(ended, ConnectError):
            yield self._step(failed_step(ended, reached), False, str(ended))
        elif not without_login and self.account.auth_method == "none":
            yield self._without_login(ended)

    def _sender(self) -> str:
        """The account's own address; empty where it is none that mail could have."""
        try:
            return parse_address(account_default_from(self.account)).addr_spec
        except InvalidMessage:
            return ""

    def _without_login(self, answer: EnvelopeAnswer | None) -> CheckStep:
        if answer is None:
            return self._step(Step.LOGIN, True, _("without a login"))
        if answer.is_refusal:
            where = host_and_port(self.account.host, self.account.port)
            return self._step(Step.LOGIN, False, f"{where}: {answer.text}")
        return self._step(Step.LOGIN, True, _("without a login (%(answer)s)", answer=answer.text))

    # The message

    def _message(self, send_to: str) -> CheckStep:
        """Send one message and follow it; a drain may be faster than this process.

        It is sent at most once: what the server has not answered in time is cut.
        """
        self._step_begun = monotonic()
        name = self.account.name
        message = enqueue(
            account=self.account,
            to=send_to,
            subject=SUBJECT.format(name=name),
            body_text=BODY.format(name=name),
            tag="account-check",
            on_unknown="hold",
        )
        try:
            result = retry_within(max(0.1, self.until - monotonic()), message.pk, force=True)
            status, text = result.status, result.error
        except OutboxError:
            status, text = self._follow(message.pk)
        message.refresh_from_db()
        text = message.last_error or text  # without the advice, which the step has of its own
        if status == Status.SENT:
            return self._step(Step.MESSAGE, True, message.provider_response or _("accepted"))
        return self._step(
            Step.MESSAGE, False, text or _("message %(number)d is %(status)s", number=message.pk, status=status)
        )

    def _follow(self, pk: int) -> tuple[str, str]:
        pause = threading.Event()
        while True:
            row = OutboxMessage.objects.get(pk=pk)
            if row.status != Status.SENDING or monotonic() >= self.until:
                return row.status, row.last_error
            pause.wait(LOOK)

    def _step(self, name: Step, ok: bool, detail: str) -> CheckStep:
        seconds, self._step_begun = monotonic() - self._step_begun, monotonic()
        text = shown(in_words(detail, gettext))
        return CheckStep(str(name), ok, round(seconds, 3), text, "" if ok else advice(detail))
