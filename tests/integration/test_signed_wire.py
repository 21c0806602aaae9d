"""Signatures are good after the way: nothing inside a signed part changes, whatever stands beside it."""

from __future__ import annotations

import email
import email.policy
import subprocess
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import django
import pytest
from django.core.mail import EmailMessage, EmailMultiAlternatives

from prx_email_django.mime.transfer import base64_lines
from prx_email_django.models import OutboxMessage
from tests.integration.backend_messages import make_email
from tests.support import wire
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)

#: Content with what a generator likes to change: blanks at line ends, "From ", odd folding, no line end before the
#: boundary, a preamble.
SEVEN_BITS = (
    b'Content-Type: multipart/mixed;\r\n   boundary="in"\r\nX-Odd:  two   blanks\r\n\r\nA preamble.\r\n--in\r\n'
    b"Content-Type:text/plain\r\n\r\nFrom here on.  \r\n.\r\n\r\nend\r\n--in\r\n"
    b"Content-Type: text/plain\r\n\r\n--in--\r\nepilogue\r\n"
)
EIGHT_BITS = "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGrüße\r\n".encode()


def run(*command: str | Path, data: bytes = b"") -> bytes:
    done = subprocess.run([str(word) for word in command], input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


class SMime:
    """Signs and verifies by openssl."""

    def __init__(self, directory: Path) -> None:
        self.key, self.certificate = directory / "key.pem", directory / "cert.pem"
        names = ("-subj", "/CN=Ann/emailAddress=ann@example.com", "-addext", "extendedKeyUsage=emailProtection")
        run(
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *names,
            "-keyout",
            self.key,
            "-out",
            self.certificate,
        )

    def sign(self, content: bytes) -> tuple[str, bytes]:
        """The type of the signed part, and its body."""
        made = run(
            *("openssl", "smime", "-sign", "-binary", "-nocerts", "-md", "sha256"),
            *("-signer", self.certificate, "-inkey", self.key, "-outform", "DER"),
            data=content,
        )
        return "application/pkcs7-signature", base64_lines(made)

    def verify(self, entity: bytes) -> None:
        """Raise unless the signature of the entity (header and body) is good."""
        found = run(
            *("openssl", "smime", "-verify", "-binary", "-purpose", "any", "-nointern"),
            *("-certfile", self.certificate, "-CAfile", self.certificate),
            data=entity,
        )
        assert found


class OpenPgp:
    """Signs and verifies by gpg."""

    def __init__(self, directory: Path) -> None:
        self.gpg = (
            "gpg",
            "--homedir",
            directory,
            "--batch",
            "--quiet",
            "--pinentry-mode",
            "loopback",
            "--passphrase",
            "",
        )
        self.directory = directory
        run(*self.gpg, "--quick-generate-key", "ann@example.com", "ed25519", "sign", "1d")

    def sign(self, content: bytes) -> tuple[str, bytes]:
        """The type of the signed part, and its body."""
        made = run(*self.gpg, "--armor", "--detach-sign", data=content)
        return "application/pgp-signature", made.replace(b"\n", b"\r\n")

    def verify(self, entity: bytes) -> None:
        """Raise unless the signature of the entity (header and body) is good."""
        body = entity.partition(b"\r\n\r\n")[2]
        _, content, signature, _ = body.split(b"--sig", 3)
        content = content.removeprefix(b"\r\n").removesuffix(b"\r\n")
        file = self.directory / "signature.asc"
        file.write_bytes(signature.partition(b"\r\n\r\n")[2])
        run(*self.gpg, "--verify", file, "-", data=content)


@pytest.fixture(scope="module", params=[SMime, OpenPgp])
def signer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = tmp_path_factory.mktemp("keys")
    directory.chmod(0o700)
    made = request.param(directory)
    yield made
    if isinstance(made, OpenPgp):
        run("gpgconf", "--homedir", directory, "--kill", "all")


def signed_entity(signer: Any, content: bytes) -> bytes:
    """A ``multipart/signed`` with header, as a mail program makes it."""
    kind, signature = signer.sign(content)
    encoding = b"base64" if "pkcs7" in kind else b"7bit"
    return (
        f'Content-Type: multipart/signed; protocol="{kind}";\r\n micalg="sha-256"; boundary=sig\r\n\r\n'.encode()
        + b"--sig\r\n"
        + content
        + f"\r\n--sig\r\nContent-Type: {kind}; name=signature\r\nContent-Transfer-Encoding: ".encode()
        + encoding
        + b"\r\n\r\n"
        + signature
        + b"\r\n--sig--\r\n"
    )


@pytest.fixture(scope="module", params=["8BITMIME", "neither"])
def catcher(request: pytest.FixtureRequest) -> Iterator[SmtpServer]:
    has_all = request.param == "8BITMIME"
    with SmtpServer(eight_bit=has_all, utf8=has_all) as server:
        yield server


server = wire.server


class Composed(EmailMultiAlternatives):
    """An overridden ``message()`` that puts the bytes of an entity behind the header of its own."""

    entity = b""

    def message(self, **kwargs: Any) -> Any:
        """An object with the method that Django's SMTP backend calls."""
        head = f"Subject: {self.subject}\r\nFrom: app@example.com\r\nTo: ann@example.org\r\nMIME-Version: 1.0\r\n"
        return _Bytes(head.encode() + self.entity)


class _Bytes:
    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def as_bytes(self, linesep: str = "\r\n") -> bytes:
        """The message as bytes."""
        return self._raw


def composed(entity: bytes, subject: str = "Größe") -> EmailMessage:
    made = Composed(subject, "", "app@example.com", ["ann@example.org"])
    made.entity = entity
    return made


def with_footer(entity: bytes) -> bytes:
    """The entity between a text in eight bits and a footer, as mailing lists make it."""
    text = "--out\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nFußzeile\r\n".encode()
    return (
        b"Content-Type: multipart/mixed; boundary=out\r\n\r\n"
        + text
        + b"--out\r\n"
        + entity
        + b"\r\n"
        + text
        + b"--out--\r\n"
    )


def footer(data: bytes, message: OutboxMessage) -> bytes:
    """A TRANSFORM_MIME that puts the whole message into a multipart with a footer in eight bits."""
    head, _, body = data.partition(b"Content-Type: multipart/signed")
    return head + with_footer(b"Content-Type: multipart/signed" + body)


@pytest.mark.parametrize("content", [SEVEN_BITS, EIGHT_BITS], ids=["7bit", "8bit"])
@pytest.mark.parametrize("place", ["whole", "beside", "transformed", "forwarded"])
def test_a_signature_is_good_after_the_way(
    signer: Any, place: str, content: bytes, server: SmtpServer, settings: Any
) -> None:
    entity = signed_entity(signer, content)
    signer.verify(entity)
    if place == "transformed":
        settings.PRX_EMAIL = {**settings.PRX_EMAIL, "TRANSFORM_MIME": f"{__name__}.footer"}
    if place == "forwarded":
        message: EmailMessage = make_email("Größe", "Süß\n")
        message.attach("fwd.eml", b"Subject: x\r\nMIME-Version: 1.0\r\n" + entity, "message/rfc822")
    else:
        message = composed(with_footer(entity) if place == "beside" else entity)
    received = wire.sent(message, server)
    assert ("BODY=8BITMIME" in received.options) == (not received.data.isascii() and server.eight_bit)
    if place == "forwarded" and content is EIGHT_BITS and not server.eight_bit:
        assert received.data.isascii()
        (part,) = [part for part in parsed(received.data).walk() if part.get_filename() == "fwd.eml"]
        data: Any = part.get_payload(decode=True)
    else:
        data = received.data
        assert data.isascii() or content is EIGHT_BITS or (place == "transformed" and server.eight_bit)
    start = data.index(b"Content-Type: multipart/signed")
    end = data.index(b"--sig--\r\n", start) + len(b"--sig--\r\n")
    assert data[start:end] == entity
    signer.verify(data[start:end])


def parsed(data: bytes) -> Message:
    return email.message_from_bytes(data)


#: A header that the modern API of the standard library writes anew: odd blanks, raw bytes, a line above 78.  (Blanks
#: behind a colon are lost when it reads them.)
ODD_HEADER = (
    b"Content-Type: text/plain;\r\n   charset=utf-8\r\nX-Odd: two   blanks\r\nX-Raw: "
    + "größe".encode()
    + b"\r\nX-Long: "
    + b"many words " * 12
    + b"\r\n\r\nhi  \r\n"
)


class Parsed(EmailMultiAlternatives):
    """An overridden ``message()`` that gives a message as the modern API has read it."""

    raw = b""

    def message(self, **kwargs: Any) -> Any:
        """The parsed message."""
        return email.message_from_bytes(self.raw, policy=email.policy.default)


@pytest.mark.parametrize("place", ["whole", "beside", *(["attached"] if django.VERSION >= (6, 0) else [])])
def test_a_signature_over_a_parsed_header_is_good(signer: Any, place: str, server: SmtpServer) -> None:
    entity = signed_entity(signer, ODD_HEADER)
    if place == "attached":
        message: EmailMessage = make_email("Größe", "Süß\n")
        message.attach(email.message_from_bytes(entity, policy=email.policy.default))  # type: ignore[arg-type]
    else:
        message = Parsed("", "", "app@example.com", ["ann@example.org"])
        message.raw = b"Subject: x\r\nMIME-Version: 1.0\r\n" + (with_footer(entity) if place == "beside" else entity)
    data = wire.sent(message, server).data
    assert ODD_HEADER in data
    start = data.index(b"Content-Type: multipart/signed")
    signer.verify(data[start : data.index(b"--sig--\r\n", start) + len(b"--sig--\r\n")])
