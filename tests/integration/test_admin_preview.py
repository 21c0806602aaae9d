"""Preview of messages that their caller rendered: bodies are parsed, and errors are shown."""

from __future__ import annotations

from email.message import EmailMessage

import pytest

from prx_email_django.admin import preview
from prx_email_django.django_mail.columns import shown_columns
from prx_email_django.models import ContentChunk, OutboxMessage
from prx_email_django.store.contents import store_contents
from prx_email_django.store.db import clock_for
from tests.integration import admin_rows as rows
from tests.integration.backend_messages import FromScratch

pytestmark = pytest.mark.django_db

PNG = b"\x89PNG\r\n\x1a\n not a real one"


MALFORMED = {
    "charset with NUL": b'Content-Type: text/plain; charset="utf\x00-8"\r\n\r\nhi',
    "charset idna": b"Content-Type: text/plain; charset=idna\r\n\r\nhi" + b"\xff" * 300,
    "charset undefined": b"Content-Type: text/html; charset=undefined\r\n\r\nhi",
    "charset unknown": b"Content-Type: text/plain; charset=nope\r\n\r\nhi",
    "comments in comments": b"Content-Type: text/plain; charset=" + b"(" * 3000 + b"\r\n\r\nhi",
    "multipart without parts": b"Content-Type: multipart/alternative; boundary=b\r\n\r\nhi",
    "image in parts": (
        b"Content-Type: multipart/related; boundary=b\r\n\r\n--b\r\nContent-Type: text/html\r\n\r\n"
        b"<img src='cid:a'>\r\n--b\r\nContent-ID: <a>\r\nContent-Type: image/png; boundary=c\r\n"
        b"Content-Transfer-Encoding: base64\r\n\r\n!!!\r\n--b--"
    ),
}


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_tree_never_breaks_page_or_columns(raw: bytes) -> None:
    message = rows.make_message(rows.make_account())
    stored = store_contents([raw], clock=clock_for(None))[0]
    OutboxMessage.objects.filter(pk=message.pk).update(raw=stored, body_text="", body_html="", size=stored.size)
    message.refresh_from_db()
    shown = shown_columns(FromScratch("s", "b", "a@x.org", ["b@x.org"]), raw)
    bodies = preview.bodies_of(message)
    assert isinstance(bodies.text, str)
    assert all(isinstance(shown[name], str) for name in ("subject", "body_text", "body_html"))


def test_a_body_in_an_unusable_charset_is_still_shown() -> None:
    for raw in (MALFORMED["charset with NUL"], MALFORMED["charset unknown"]):
        assert shown_columns(FromScratch("s", "b", "a@x.org", ["b@x.org"]), raw)["body_text"] == "hi"


def rendered(*, text: str = "", html: str = "", images: dict[str, bytes] | None = None) -> OutboxMessage:
    email = EmailMessage()
    email["From"], email["To"], email["Subject"] = "shop@example.com", "ann@example.org", "Hello"
    email.set_content(text)
    if html:
        email.add_alternative(html, subtype="html")
        part = email.get_payload()[1]  # type: ignore[index]
        for name, content in (images or {}).items():
            part.add_related(content, "image", "png", cid=f"<{name}>")  # type: ignore[union-attr]
    message = rows.make_message(rows.make_account())
    stored = store_contents([email.as_bytes(policy=email.policy.clone(linesep="\r\n"))], clock=clock_for(None))[0]
    OutboxMessage.objects.filter(pk=message.pk).update(raw=stored, body_text="", body_html="", size=stored.size)
    message.refresh_from_db()
    return message


def test_a_rendered_message_is_read_like_any_other() -> None:
    html = '<p>Grüße</p><img src="cid:logo"><img src="cid:missing">'
    bodies = preview.bodies_of(rendered(text="Grüße", html=html, images={"logo": PNG}))
    assert bodies.text.strip() == "Grüße"
    assert "<p>Grüße</p>" in bodies.srcdoc
    assert 'src="data:image/png;base64,' in bodies.srcdoc
    assert 'src="cid:missing"' in bodies.srcdoc
    assert bodies.srcdoc.startswith("<meta")


def test_a_text_alone_has_no_preview() -> None:
    bodies = preview.bodies_of(rendered(text="only text"))
    assert bodies.text.strip() == "only text"
    assert bodies.srcdoc == ""


def test_images_beyond_the_bound_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview, "MAX_IMAGES", 3)
    assert "data:" not in preview.bodies_of(
        rendered(text="x", html='<img src="cid:logo">', images={"logo": PNG})
    ).srcdoc.removeprefix(preview.safe_document("", {}))


def test_a_message_too_large_to_parse_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    message = rendered(text="x")
    monkeypatch.setattr(preview, "MAX_PARSED", 1)
    assert "too large" in preview.bodies_of(message).error


def test_altered_content_is_reported_and_the_page_stays_readable() -> None:
    message = rendered(text="x")
    ContentChunk.objects.all().delete()
    response = rows.client_for("*").get(f"{rows.MESSAGES}{message.pk}/change/")
    assert response.status_code == 200
    assert "missing or altered" in response.content.decode()
