"""The signature that docs/how-to/dkim.md shows how to make is good when the message has arrived."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from uuid import uuid4

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

import prx_email_django as prx
from prx_email_django.backends import OutboxEmailBackend
from prx_email_django.models import OutboxMessage
from tests.integration.backend_messages import MESSAGES
from tests.integration.backend_odd_messages import ONLY_OURS
from tests.support.documents import blocks
from tests.support.factories import account_on
from tests.support.smtp_server import SmtpServer

pytestmark = pytest.mark.django_db(transaction=True)


class Signing(NamedTuple):
    """The name of the module, and the DNS records that verify its signatures."""

    module: str
    records: dict[bytes, bytes]


@pytest.fixture
def signing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Signing:
    """The module of the page, with a fresh key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    file = tmp_path / "dkim.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    monkeypatch.setenv("DKIM_KEY", str(file))
    module = ModuleType(f"signing_{uuid4().hex}")  # of its own: the function that settings name is kept
    shown = next(block for block in blocks("docs/how-to/dkim.md") if block.path == "shop/signing.py")
    exec(compile(shown.text, str(shown), "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    record = b"v=DKIM1; k=rsa; p=" + b"".join(public.splitlines()[1:-1])
    return Signing(module.__name__, {b"s2026._domainkey.example.com.": record})


def test_the_signature_verifies_after_the_way(signing: Signing, settings: Any) -> None:
    settings.PRX_EMAIL = {"DEFAULT_ACCOUNT": "main", "WAKE": "", "TRANSFORM_MIME": f"{signing.module}.sign"}
    names = sorted(set(MESSAGES) - ONLY_OURS)[::6] + ["one_click", "lone_carriage_returns", "non_ascii_everywhere"]
    with SmtpServer() as server:
        account_on(server)
        OutboxEmailBackend().send_messages([MESSAGES[name]() for name in names])
        assert prx.drain().sent == len(names), list(OutboxMessage.objects.values("last_error"))
        for message in server.messages:
            assert dkim.verify(message.data, dnsfunc=lambda name, **_: signing.records.get(name))
            altered = message.data.replace(b"\r\n\r\n", b"\r\n\r\nx", 1)
            assert not dkim.verify(altered, dnsfunc=lambda name, **_: signing.records.get(name))
