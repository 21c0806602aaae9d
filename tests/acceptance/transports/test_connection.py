"""Opening a session: TLS is verified, one mechanism is tried once, every failure is classified and bounded in time."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
import trustme

from prx_email_django.rules.outcomes import Ending, Phase, Trouble
from prx_email_django.transports.base import ConnectError, ConnectionSettings, TlsFiles
from prx_email_django.transports.smtp import auth as sasl
from prx_email_django.transports.smtp import connection
from prx_email_django.transports.smtp.connection import SmtpTransport
from prx_email_django.transports.smtp.session import SmtpSession
from tests.support.fake_clock import FakeClockLoop, run_on_fake_clock
from tests.support.outgoing_messages import outgoing, settings_for, transmit
from tests.support.patience import PATIENCE
from tests.support.smtp_server import SmtpServer

USERS = {"ann": "s3cret-pass"}
TOKENS = {"ann": "ya29.s3cret-token"}


def open_and_close(settings: ConnectionSettings) -> tuple[str, int]:
    """Peer and size limit of a session that could be opened."""

    async def main() -> tuple[str, int]:
        session: SmtpSession = await SmtpTransport().open(settings)
        session.abort()
        return session.peer, session.size_limit

    return asyncio.run(main())


def failure(settings: ConnectionSettings) -> ConnectError:
    with pytest.raises(ConnectError) as failed:
        open_and_close(settings)
    assert len(str(failed.value)) <= 160
    return failed.value


def verdict(error: ConnectError) -> tuple[Phase, Trouble, str]:
    return error.phase, error.trouble, error.error_code


# Sessions that open


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_password_uses_the_mechanism_that_is_offered(tls: str, mechanism: str) -> None:
    with SmtpServer(tls=tls, users=USERS, mechanisms=(mechanism, "XOAUTH2"), size=12345) as server:
        peer, limit = open_and_close(settings_for(server))
        assert (server.auth_attempts, limit) == ([mechanism], 12345)
        assert peer == f"127.0.0.1:{server.port} TLSv1.3"


def test_plain_is_preferred_and_tried_once() -> None:
    with SmtpServer(tls="implicit", users=USERS) as server:
        error = failure(settings_for(server, password="wrong"))
        assert verdict(error) == (Phase.AUTH, Trouble.AUTH, "auth")
        assert (error.smtp_code, error.enhanced, server.auth_attempts) == (535, "5.7.8", ["PLAIN"])
        assert server.wait_closed()


def test_token_is_accepted() -> None:
    with SmtpServer(tls="starttls", tokens=TOKENS) as server:
        feed, _ = transmit(server, [outgoing()])
        assert feed.outcomes[1].peer.endswith("TLSv1.3") and server.auth_attempts == ["XOAUTH2"]


def test_reason_in_the_token_challenge_is_kept_and_the_token_is_not() -> None:
    with SmtpServer(tls="implicit", tokens=TOKENS) as server:
        error = failure(settings_for(server, token="stale-token-value"))
        assert verdict(error) == (Phase.AUTH, Trouble.AUTH, "auth")
        assert "535 5.7.8 bad credentials" in str(error) and "status 401" in str(error)
        assert "stale-token-value" not in f"{error}{error!r}" and error.smtp_code == 535


def test_secrets_that_a_server_echoes_do_not_reach_the_error() -> None:
    with SmtpServer(tls="implicit", users=USERS) as server:
        secret = "AGFubgBzM2NyZXQtcGFzcw=="
        server.on("auth", reply=f"535 5.7.8 you said s3cret-pass, AUTH PLAIN {secret}")
        text = str(failure(settings_for(server)))
        assert "s3cret-pass" not in text and secret not in text and "you said ***" in text


# TLS


def test_starttls_is_demanded_before_any_credential() -> None:
    with SmtpServer(users=USERS) as server:
        error = failure(settings_for(server, security="starttls", host="localhost"))
        assert verdict(error) == (Phase.TLS, Trouble.TLS, "tls")
        assert server.auth_attempts == []


def test_refused_starttls_never_falls_back_to_clear_text() -> None:
    with SmtpServer(tls="starttls", users=USERS) as server:
        server.on("starttls", reply="502 5.5.1 not today")
        error = failure(settings_for(server))
        assert verdict(error) == (Phase.TLS, Trouble.TLS, "tls")
        assert (error.smtp_code, server.auth_attempts) == (502, [])


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_unknown_authority_is_refused(tls: str, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    with SmtpServer(tls=tls, users=USERS) as server:
        for bundle in (str(other), ""):
            error = failure(settings_for(server, tls_files=TlsFiles(ca_file=bundle)))
            assert verdict(error) == (Phase.TLS, Trouble.TLS, "tls")
            assert "certificate" in str(error) or "issuer" in str(error)
        assert server.auth_attempts == []


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_certificate_for_another_name_is_refused(tls: str) -> None:
    with SmtpServer(tls=tls, users=USERS, certificate_for=("mail.example.org",)) as server:
        error = failure(settings_for(server))
        assert verdict(error) == (Phase.TLS, Trouble.TLS, "tls") and "localhost" in str(error)


def test_old_tls_is_refused() -> None:
    with SmtpServer(tls="implicit", users=USERS) as server:
        assert server.ssl_context is not None
        server.ssl_context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            server.ssl_context.maximum_version = ssl.TLSVersion.TLSv1_1
        # The server ends the handshake, or this side: the two cannot be told apart, and neither sends a credential.
        failure(settings_for(server))
        assert server.auth_attempts == []


def test_tls_to_a_plain_port_is_tls_trouble(server: SmtpServer) -> None:
    assert verdict(failure(settings_for(server, security="tls"))) == (Phase.TLS, Trouble.TLS, "tls")


@pytest.mark.parametrize("content", [None, "no certificate\n"])
def test_unusable_ca_file_is_tls_trouble(server: SmtpServer, tmp_path: Path, content: str | None) -> None:
    bundle = tmp_path / "ca.pem"
    if content is not None:
        bundle.write_text(content)
    error = failure(settings_for(server, security="tls", tls_files=TlsFiles(ca_file=str(bundle))))
    assert verdict(error) == (Phase.TLS, Trouble.TLS, "tls") and server.connections == 0


def test_renewed_ca_file_is_read_again(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(bundle)
    with SmtpServer(tls="implicit") as server:
        failure(settings_for(server, tls_files=TlsFiles(ca_file=str(bundle))))
        bundle.write_bytes(Path(server.ca_file).read_bytes())
        assert open_and_close(settings_for(server, tls_files=TlsFiles(ca_file=str(bundle))))


def test_tls_cut_short_is_the_connections_trouble() -> None:
    """The loss says nothing about the certificate, and must not pause the account at once."""
    with SmtpServer(tls="starttls") as server:
        server.on("starttls", raw=b"220 2.0.0 go ahead\r\n", drop=True)
        error = failure(settings_for(server))
        assert (error.phase, error.trouble) == (Phase.TLS, Trouble.CONNECTION)


# Clear text


def test_clear_text_goes_only_to_hosts_that_were_named(server: SmtpServer) -> None:
    error = failure(settings_for(server, cleartext_hosts=("mail.example.org", "10.0.0.0/8")))
    assert verdict(error) == (Phase.TLS, Trouble.TLS, "tls")
    assert server.commands == []
    for allowed in ("127.0.0.1", "127.0.0.0/8"):
        assert open_and_close(settings_for(server, cleartext_hosts=(allowed,)))


def test_credentials_in_clear_go_to_loopback() -> None:
    with SmtpServer(users=USERS) as server:
        open_and_close(settings_for(server))
        assert server.auth_attempts == ["PLAIN"]


def test_credentials_in_clear_go_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even to a host to which clear text is allowed.  ``is_loopback`` is replaced: tests reach no other machine."""
    monkeypatch.setattr(connection, "is_loopback", lambda _sock: False)
    with SmtpServer(users=USERS) as server:
        error = failure(settings_for(server))
        assert verdict(error) == (Phase.TLS, Trouble.TLS, "tls")
        assert server.commands == []
        assert open_and_close(settings_for(server, auth_method="none"))


# Mechanisms


@pytest.mark.parametrize(("mechanisms", "method"), [(("XOAUTH2",), "password"), (("PLAIN", "LOGIN"), "xoauth2")])
def test_no_usable_mechanism_is_auth_trouble(mechanisms: tuple[str, ...], method: str) -> None:
    with SmtpServer(tls="implicit", users=USERS, mechanisms=mechanisms) as server:
        error = failure(settings_for(server, auth_method=method, token="t"))
        assert verdict(error) == (Phase.AUTH, Trouble.AUTH, "auth")
        assert server.auth_attempts == [] and mechanisms[0] in str(error)


@pytest.mark.parametrize(
    ("reply", "trouble"),
    [
        ("535 5.7.139 SmtpClientAuthentication is disabled for the Tenant", Trouble.AUTH),
        ("550 5.7.30 Basic authentication is not supported for Client Submission", Trouble.AUTH),
        ("534 5.7.9 application-specific password required", Trouble.AUTH),
        ("454 4.7.0 temporary authentication failure", Trouble.AUTH),
        ("432 4.7.12 password transition needed", Trouble.AUTH),
        ("421 4.7.0 too many attempts", Trouble.AUTH),
        ("450 4.7.1 too many failed logins", Trouble.AUTH),
        ("451 4.3.0 internal error", Trouble.CONNECTION),
        ("334 bm8gc3VjaCBjaGFsbGVuZ2U=", Trouble.AUTH),
    ],
)
def test_reply_to_auth_is_blamed_on_the_login_or_on_the_server(reply: str, trouble: Trouble) -> None:
    with SmtpServer(tls="implicit", users=USERS) as server:
        server.on("auth", reply=reply)
        error = failure(settings_for(server))
        assert (error.phase, error.trouble, error.smtp_code) == (Phase.AUTH, trouble, int(reply[:3]))
        assert reply in str(error) and (reply[0] != "3" or "asks for more" in str(error))
        assert server.auth_attempts == (["PLAIN", "LOGIN"] if reply.startswith("534") else ["PLAIN"])
        is_throttled = trouble is Trouble.AUTH and reply[0] == "4" and "4.7.12" not in reply
        assert ("throttles logins" in str(error)) == is_throttled
        assert server.wait_closed()


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_refused_authentication_names_the_tls_version(tls: str) -> None:
    with SmtpServer(tls=tls, users=USERS) as server:
        error = failure(settings_for(server, password="another"))
        assert (error.phase, error.peer) == (Phase.AUTH, f"127.0.0.1:{server.port} TLSv1.3")


# Unreachable, silent and misbehaving servers


def test_unknown_name_is_the_connections_trouble() -> None:
    error = failure(_settings("no-such-host.invalid", 25, timeout=60.0))
    assert verdict(error) == (Phase.CONNECT, Trouble.CONNECTION, "network")


@pytest.mark.parametrize("host", ["", "x" * 300, "a..b", "bad\r\nhost"])
def test_invalid_name_is_the_connections_trouble(host: str) -> None:
    assert failure(_settings(host or ".", 25)).trouble is Trouble.CONNECTION


def test_closed_port_is_the_connections_trouble() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        error = failure(_settings("127.0.0.1", unused.getsockname()[1]))
    assert verdict(error) == (Phase.CONNECT, Trouble.CONNECTION, "network")


@pytest.mark.parametrize("stage", ["greeting", "ehlo", "starttls", "auth"])
@pytest.mark.parametrize("what", ["stall", "drop"])
def test_silence_and_loss_while_opening_are_bounded_and_leave_nothing_open(stage: str, what: str) -> None:
    with SmtpServer(tls="starttls", users=USERS) as server:
        options: dict[str, Any] = {what: True}
        server.on(stage, **options)
        error = failure(settings_for(server, timeout=0.2 if what == "stall" else PATIENCE))
        assert error.trouble is Trouble.CONNECTION
        assert error.error_code == ("timeout" if what == "stall" else "network")
        assert server.wait_closed()


def test_silence_in_the_tls_handshake_is_bounded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        error = failure(_settings("127.0.0.1", silent.getsockname()[1], security="tls", timeout=0.2))
    assert verdict(error) == (Phase.TLS, Trouble.CONNECTION, "timeout")


@pytest.mark.parametrize("what", [{"stall": True}, {"drop": True}, {"reply": "554 5.3.2 not now"}])
def test_failed_greeting_after_the_handshake_is_not_blamed_on_tls(what: dict[str, Any]) -> None:
    with SmtpServer(tls="implicit") as server:
        server.on("greeting", **what)
        error = failure(settings_for(server, timeout=0.2))
        assert (error.phase, error.trouble) == (Phase.CONNECT, Trouble.CONNECTION)


@pytest.mark.parametrize("reply", [b"120 wait\r\n", b"099 what\r\n", b"600 what\r\n", b"999 what\r\n", b"2_5 ok\r\n"])
@pytest.mark.parametrize("stage", ["starttls", "auth"])
def test_number_that_is_not_an_smtp_code_is_not_blamed_on_tls_or_credentials(stage: str, reply: bytes) -> None:
    """A malformed reply would pause the account at once, and use up a token refresh."""
    with SmtpServer(tls="starttls", users=USERS) as server:
        server.on(stage, raw=reply)
        error = failure(settings_for(server))
        assert verdict(error)[1:] == (Trouble.CONNECTION, "provider")
        assert error.smtp_code == 0 and "not an SMTP reply" in str(error)


def test_server_that_is_slow_at_every_step_is_bounded_as_a_whole() -> None:
    with SmtpServer(tls="starttls", users=USERS) as server:
        for stage in ("greeting", "ehlo", "starttls", "auth"):
            server.on(stage, delay=0.15)
        error = failure(settings_for(server, timeout=0.2))
        assert (error.trouble, error.error_code) == (Trouble.CONNECTION, "timeout")


def test_tls_server_that_reads_no_more_does_not_keep_the_socket(tmp_path: Path) -> None:
    """An orderly TLS shutdown would wait for its answer for half a minute."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    handshake_done = threading.Event()

    def handshake_then_silence(listening: socket.socket) -> None:
        plain, _ = listening.accept()
        with context.wrap_socket(plain, server_side=True) as secured:
            raw = socket.socket(fileno=secured.detach())
        handshake_done.set()
        with raw:
            raw.settimeout(
                PATIENCE
            )  # on the fake clock an orderly shutdown never ends, so this timeout would report it
            while raw.recv(4096):
                pass

    async def main(loop: FakeClockLoop) -> None:
        silent = asyncio.ensure_future(asyncio.to_thread(handshake_then_silence, listening))
        settings = _settings(
            "127.0.0.1",
            listening.getsockname()[1],
            security="tls",
            tls_files=TlsFiles(ca_file=str(tmp_path / "ca.pem")),
        )
        opening = asyncio.ensure_future(SmtpTransport().open(settings))
        assert await asyncio.to_thread(handshake_done.wait, PATIENCE)
        while not opening.done():  # the opening may not wait for the greeting yet
            await loop.jump(1)
        with pytest.raises(ConnectError):
            await opening
        await silent

    with socket.create_server(("127.0.0.1", 0)) as listening:
        run_on_fake_clock(main)


def test_cancelled_opening_leaves_nothing_open() -> None:
    with SmtpServer(tls="implicit", users=USERS) as server:
        rule = server.on("auth", stall=True)

        async def main() -> None:
            opening = asyncio.ensure_future(SmtpTransport().open(settings_for(server)))
            assert await asyncio.to_thread(rule.reached.wait, PATIENCE)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening

        asyncio.run(main())
        assert server.wait_closed()


@pytest.mark.parametrize("security", [None, "implicit"])
def test_server_that_closes_after_accepting_auth_gives_no_session(
    security: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the connection is read after the reply to AUTH and before the session takes over."""
    authenticate = sasl.authenticate

    async def authenticate_and_close(command: Any, mechanism: str, settings: ConnectionSettings) -> sasl.Refusal | None:
        refusal = await authenticate(command, mechanism, settings)
        server.hang_up()
        while command.__self__.transport is not None and not command.__self__.transport.is_closing():
            await asyncio.sleep(0)
        return refusal

    monkeypatch.setattr(sasl, "authenticate", authenticate_and_close)
    with SmtpServer(tls=security, users=USERS) as server:
        error = failure(settings_for(server))
        assert (error.trouble, error.error_code, error.smtp_code) == (Trouble.CONNECTION, "network", 0)
        assert server.wait_closed()


def test_old_server_without_ehlo_can_be_used_by_helo(server: SmtpServer) -> None:
    server.on("ehlo", reply="502 5.5.1 what?")
    feed, _ = transmit(server, [outgoing()])
    assert feed.outcomes[1].ending is Ending.ACCEPTED
    assert server.lines("HELO") and server.messages[0].options == ()


@pytest.mark.parametrize("limit", ["", "0", "many", "-5", "9" * 40, "\N{SUPERSCRIPT TWO}"])
def test_invalid_size_limit_counts_as_no_limit(server: SmtpServer, limit: str) -> None:
    server.on("ehlo", reply=f"250-test.example.org\r\n250 SIZE {limit}")
    assert open_and_close(settings_for(server))[1] == 0


def test_repr_of_connection_settings_has_no_secrets() -> None:
    shown = repr(_settings("mail.example.org", 25, password="s3cret", token="t0ken"))
    assert "s3cret" not in shown and "t0ken" not in shown


def _settings(host: str, port: int, **options: Any) -> ConnectionSettings:
    values: dict[str, Any] = {"security": "none", "auth_method": "none", "timeout": PATIENCE, **options}
    return ConnectionSettings(host=host, port=port, **values)


@pytest.mark.parametrize(
    ("host", "allowed", "is_dialled"),
    [
        ("127.0.0.1", None, True),
        ("127.0.0.1", ("127.0.0.0/8",), True),
        ("127.0.0.1", ("*.example.com", "10.0.0.0/8"), False),
        ("127.0.0.1", (), False),
        ("localhost", ("localhost",), True),
        ("localhost", ("127.0.0.0/8", "::1"), True),
        ("localhost", ("10.0.0.0/8",), False),
        ("localhost", ("*.example.com",), False),
    ],
)
def test_a_host_that_account_hosts_does_not_allow_is_never_dialled(
    host: str, allowed: tuple[str, ...] | None, *, is_dialled: bool
) -> None:
    """Without it, whoever may change an account can reach every service inside the network."""
    with SmtpServer() as server:
        settings = dataclasses.replace(settings_for(server), host=host, account_hosts=allowed)
        if is_dialled:
            open_and_close(settings)
            return
        error = failure(settings)
        assert verdict(error) == (Phase.CONNECT, Trouble.CONFIGURATION, "configuration")
        text = f"{host}:{server.port}: ACCOUNT_HOSTS does not allow this host"
        assert str(error) == text, "the address behind the name is not shown"
        assert server.connections == 0
