"""``render_mail``: subject, text and HTML from template files; stored text is never executed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMultiAlternatives
from django.template import Context, TemplateDoesNotExist
from django.test import RequestFactory
from django.utils.translation import get_language

from prx_email_django import RenderedMail, render_mail
from prx_email_django.errors import InvalidMessage

#: Tells the difference between escaped and not.
NAME = "Ann <O'Hara> & Co"
ESCAPED = "Ann &lt;O&#x27;Hara&gt; &amp; Co"

ORDER = """
{% load i18n %}
{% block subject %}
  Order {{ number }}
  for {{ name }}
{% endblock %}
{% block text %}

Hello {{ name }},
{% translate "Yes" %}

{% endblock %}
{% block html %}<p>Hello {{ name }}</p>{% endblock %}
"""

Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path, settings: Any) -> Write:
    """Write template files, given as name and text, into the folder where the engine looks."""
    backend = "django.template.backends.django.DjangoTemplates"
    settings.TEMPLATES = [{"BACKEND": backend, "NAME": "mail", "DIRS": [tmp_path], "OPTIONS": {}}]

    def to_files(**files: str) -> None:
        for name, text in files.items():
            (tmp_path / name.replace("__", ".")).write_text(text, encoding="utf-8")

    return to_files


def test_one_file_gives_all_three_and_only_html_is_escaped(write: Write) -> None:
    write(order__html=ORDER)
    made = render_mail("order.html", {"number": 7, "name": NAME})
    assert made == RenderedMail(
        subject=f"Order 7 for {NAME}",
        body_text=f"Hello {NAME},\nYes",
        body_html=f"<p>Hello {ESCAPED}</p>",
    )


def test_three_files_give_the_same(write: Write) -> None:
    write(
        order_subject__txt="Order {{ number }}\n for {{ name }}\n",
        order_body__txt="\nHello {{ name }}\n",
        order_body__html="<p>{{ name }}</p>\n",
    )
    made = render_mail("order", {"number": 7, "name": NAME})
    assert made == RenderedMail(f"Order 7 for {NAME}", f"Hello {NAME}", f"<p>{ESCAPED}</p>")


def test_the_first_line_of_a_table_stays_indented(write: Write) -> None:
    write(
        table__html="{% block subject %}s{% endblock %}{% block text %}\r\n  \n    a  b\n    1  2 \n \n{% endblock %}"
    )
    assert render_mail("table.html").body_text == "    a  b\n    1  2"


def test_djangos_own_context_is_refused_in_words(write: Write) -> None:
    write(order__html=ORDER)
    with pytest.raises(TypeError, match="must be a mapping rather than Context"):
        render_mail("order.html", Context({"name": NAME}))  # type: ignore[arg-type]


def test_a_base_template_frames_every_mail(write: Write) -> None:
    """``{{ block.super }}``, a block within a block, and a child of a child, as Django's own inheritance does it."""
    write(
        base__html="{% block subject %}Shop{% endblock %}"
        "{% block html %}<i>{% block content %}-{% endblock %}</i>{% endblock %}",
        middle__html="{% extends 'base.html' %}{% block content %}<p>{% block words %}{% endblock %}</p>{% endblock %}",
        order__html="{% extends 'middle.html' %}{% block subject %}{{ block.super }}: order{% endblock %}"
        "{% block text %}Text{% endblock %}{% block words %}{{ name }}{% endblock %}",
    )
    made = render_mail("order.html", {"name": NAME})
    assert made == RenderedMail("Shop: order", "Text", f"<i><p>{ESCAPED}</p></i>")


def test_the_recipients_language_and_only_for_this_mail(write: Write) -> None:
    write(order__html=ORDER)
    values = {"number": 7, "name": "Ann"}
    before = get_language()
    assert render_mail("order.html", values, language="ja").body_text == "Hello Ann,\nはい"
    assert get_language() == before
    assert render_mail("order.html", values).body_text == "Hello Ann,\nYes"


def test_a_text_is_made_of_html_alone(write: Write) -> None:
    html = (
        "<style>p { color: red }</style><p>Hello {{ name }},</p><p>Total: <b>3&nbsp;€</b></p>"
        '<div style="display: none">preheader</div><p><a href="https://shop.example/?a=1&amp;b=2">Your order</a><br>'
        '<a href="https://shop.example/x">https://shop.example/x</a></p><table><tr><td>Pen</td><td>3</td></tr></table>'
    )
    write(order_subject__txt="Order", order_body__html=html)
    assert render_mail("order", {"name": "Ann & Bo"}).body_text.split("\n") == [
        "Hello Ann & Bo,",
        "",
        "Total: 3 €",
        "",
        "[Your order](https://shop.example/?a=1&b=2)",
        "https://shop.example/x",
        "",
        "Pen  3",
    ]


def test_without_the_library_the_error_names_the_extra(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write(order_subject__txt="Order", order_body__html="<p>Hello</p>")
    monkeypatch.setitem(sys.modules, "inscriptis", None)
    with pytest.raises(ImproperlyConfigured, match=r"pip install 'prx_email_django\[text\]'"):
        render_mail("order")


def test_a_value_is_never_executed(write: Write) -> None:
    write(order__html=ORDER)
    evil = "{{ number }}{% now 'Y' %}{% include 'order.html' %}"
    made = render_mail("order.html", {"number": 7, "name": evil})
    assert made.subject == f"Order 7 for {evil}"
    assert evil in made.body_text


def test_a_line_end_in_a_value_adds_no_header(write: Write) -> None:
    write(order__html=ORDER)
    made = render_mail("order.html", {"number": 7, "name": "Ann\r\nBcc: eve@example.org"})
    assert made.subject == "Order 7 for Ann Bcc: eve@example.org"


def test_the_request_and_its_processors_are_used(write: Write, settings: Any) -> None:
    processors = ["django.template.context_processors.request"]
    settings.TEMPLATES = [{**settings.TEMPLATES[0], "OPTIONS": {"context_processors": processors}}]
    write(order_subject__txt="At {{ request.get_host }}", order_body__txt="{{ request.path }}")
    request = RequestFactory().get("/order/7/", headers={"host": "localhost"})
    assert render_mail("order", request=request, using="mail") == RenderedMail("At localhost", "/order/7/")


def test_the_first_of_several_names_is_taken(write: Write) -> None:
    write(order__html=ORDER)
    names = ["order.fr.html", "missing", "order.html"]
    assert render_mail(names, {"number": 7, "name": "Ann"}).subject == "Order 7 for Ann"


def test_what_is_missing_is_named_in_full(write: Write) -> None:
    write(other__html=ORDER)
    with pytest.raises(TemplateDoesNotExist) as absent:
        render_mail(["order.html", "order"])
    assert str(absent.value) == "order.html, order_subject.txt, order_body.txt, order_body.html"
    assert len(absent.value.chain) == 4


@pytest.mark.parametrize(
    ("files", "name", "code", "words"),
    [
        ({"a__html": "{% block text %}x{% endblock %}"}, "a.html", "empty_subject", "a.html has no block “subject”"),
        (
            {"a__html": "{% block subject %}x{% endblock %}"},
            "a.html",
            "empty_body",
            "a.html has no block “text” or “html”",
        ),
        ({"a_body__txt": "x"}, "a", "empty_subject", "there is no template “a_subject.txt”"),
        (
            {"a_subject__txt": "x"},
            "a",
            "empty_body",
            "there is no template “a_body.txt” or “a_body.html”",
        ),
        ({"a_subject__txt": "{# #}", "a_body__txt": "x"}, "a", "empty_subject", "a_subject.txt rendered nothing"),
    ],
)
def test_an_empty_part_is_refused_in_words(
    write: Write, files: dict[str, str], name: str, code: str, words: str
) -> None:
    write(**files)
    with pytest.raises(InvalidMessage, match=words.replace(".", r"\.")) as refused:
        render_mail(name)
    assert refused.value.code == code


def test_another_engine_is_refused_by_its_name(settings: Any) -> None:
    settings.TEMPLATES = [{"BACKEND": "django.template.backends.dummy.TemplateStrings", "NAME": "plain"}]
    with pytest.raises(ImproperlyConfigured, match="DjangoTemplates.*“plain”"):
        render_mail("order", using="plain")


def test_the_value_fits_calls_of_ours_and_of_django() -> None:
    made = RenderedMail("Hello", "Text", "<p>Text</p>")
    assert dict(**made) == {"subject": "Hello", "body_text": "Text", "body_html": "<p>Text</p>"}
    message = EmailMultiAlternatives(made.subject, made.body_text, to=["ann@example.org"])
    message.attach_alternative(made.body_html, "text/html")
    assert message.message().get_content_type() == "multipart/alternative"
    with pytest.raises(KeyError):
        made["to"]
