"""Preview of messages that their caller rendered: bodies are parsed, and errors are shown."""

from __future__ import annotations

from email.message import EmailMessage

import pytest

from prx_email_django.admin import preview
from prx_email_django.models import ContentChunk, OutboxMessage
from prx_email_django.store.contents import store_contents
from prx_email_django.store.db import clock_for
from tests.integration import admin_rows as rows

pytestmark = pytest.mark.django_db

PNG = b"\x89PNG\r\n\x1a\n not a real one"


def rendered(*, text: str = "", html: str = "", images: dict[str, bytes] | None = None) -> OutboxMessage:
    email = EmailMessage()
    email["From"], email["To"], email["Subject"] = "shop@example.com", "ann@example.org", "Hello"
    email.set_content(text)
    if html:
        email.add_alternative(html, subtype="html")
        part = email.get_payload()[1]  # type: ignore[index]
        for name, octets in (images or {}).items():
            part.add_related(octets, "image", "png", cid=f"<{name}>")  # type: ignore[union-attr]
    message = rows.make_message(rows.make_account())
    content = store_contents([email.as_bytes(policy=email.policy.clone(linesep="\r\n"))], clock=clock_for(None))[0]
    OutboxMessage.objects.filter(pk=message.pk).update(raw=content, body_text="", body_html="", size=content.size)
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
