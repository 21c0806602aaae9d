"""What the app words and stores is shown in the reader's language: every text in the source has its translation."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.utils.translation import override

import prx_email_django
from prx_email_django.status.stored_words import ENCLOSING, WHOLE, as_stored, shown

PACKAGE = Path(prx_email_django.__file__).parent
#: The files whose texts a worker stores.
FILES = [
    *(path for folder in ("transports", "worker", "oauth") for path in sorted((PACKAGE / folder).rglob("*.py"))),
    *(PACKAGE / f"contrib/{name}.py" for name in ("_token_transport", "google", "microsoft")),
    *(PACKAGE / name for name in ("rules/policy.py", "store/recover.py", "models/content.py", "conf/references.py")),
]
#: Texts that are no reason of a failure: patterns, commands of SMTP, and what is shown during a sign-in only.
NOT_STORED = re.compile(
    r"MAIL FROM:.*|RCPT TO:.*|user=.*|n,a=.*|closed by us|Malformed SMTP response line: |-----BEGIN .*|POP3 or .*"
    r"|550 5\.1\.1 no such user|450 4\.2\.1 try again later|the text must be exactly one reply.*|an unnamed authority"
    r"|offline_access .*|nobody with an address|.*\|.*|too many recipients|too many messages.*|too many \.\*.*"
    r"|\\b.*|\^.*|it .*|its key .*|certificate and key must .*|the key is not that .*"
    r"|x: x x|belongs to one message|chunk x of .*|x .x bytes.",
    re.DOTALL,
)
#: Parts of a text that is put together from several.
PARTS = re.compile(r"; that port .*|, only .* is allowed|in x s|certificate by x, x days left")
#: The first words of a reason, which other words follow.
HEADS = {re.split(r" \(|: %", template)[0] for template in ENCLOSING}
#: A text of the source, and how it looks with what is filled in, where that decides.
FILLED_IN = {
    "the domain of an address is x": "the domain of an address is not a host name",
    "connection failed: x: x: the server closed the connection": (
        "connection failed: mail.example.com:25: greeting: the server closed the connection"
    ),
    "the greeting from x was not complete x": "the greeting from mail.example.com:25 was not complete in 60 s",
    "the answer to x from x was not complete x": "the answer to EHLO from mail.example.com:25 was not complete in 60 s",
}
#: Files whose texts are raised while a person signs in: nothing of them is stored.
SIGN_IN = {"sign_in.py", "device.py", "servers.py"}
FILLED = re.compile(r"%\(\w+\)[sdrg]|%[sdg]")


def texts_of(tree: ast.AST) -> Iterator[str]:
    """Yield each text of three words or more, with ``x`` for what is filled in; no documentation, no log line."""
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped.add(id(node.value))
        if isinstance(node, ast.JoinedStr):
            skipped.update(map(id, node.values))
        is_log = isinstance(node, ast.Call) and ast.unparse(node.func).startswith("logger.")
        if is_log or (isinstance(node, ast.Call) and ast.unparse(node.func) in ("TypeError", "RuntimeError")):
            skipped.update(map(id, ast.walk(node)))
    for node in ast.walk(tree):
        text = ""
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = FILLED.sub("x", node.value)
        elif isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values)
        if len(text.split()) >= 3:
            yield text


def stored() -> set[str]:
    found: set[str] = set()
    for path in FILES:
        if path.name not in SIGN_IN:
            found.update(texts_of(ast.parse(path.read_text(encoding="utf-8"))))
    return {
        text for text in found if not NOT_STORED.fullmatch(text) and not PARTS.fullmatch(text) and text not in HEADS
    }


TEXTS = sorted(stored())
ENGLISH = re.compile(r"[a-z]{2,} (the|is|of|to|a|no|with|in|on) |^(the|no|a) ")


def test_the_texts_are_found() -> None:
    """Else the test below would demand nothing."""
    assert len(TEXTS) > 60
    assert {"the server does not offer STARTTLS", "no answer to EHLO from x x", "x raised x in x, line x"} <= set(TEXTS)


@pytest.mark.parametrize("text", TEXTS)
def test_a_stored_text_is_shown_in_japanese(text: str) -> None:
    # "in 60 s" and the second half of a sentence are filled in.
    said = FILLED_IN.get(text, text)
    said = said.replace("x x", "mail.example.com:25 in 60 s") if re.match("no (conn|answ|greet|TLS)", said) else said
    said = re.sub(r"s xx$", "s", said).replace("60 sx", "60 s")
    with override("ja"):
        assert shown(said) != said
        assert not ENGLISH.search(shown(said)), shown(said)


@pytest.mark.parametrize("template", [*ENCLOSING, *WHOLE])
def test_a_template_is_recognised_as_itself(template: str) -> None:
    values = {name: f"x{number}" for number, name in enumerate(re.findall(r"%\((\w+)\)s", template))}
    with override("ja"):
        translated = shown(template % values)
    assert all(value in translated for value in values.values())
    assert translated != template % values
    with override("en"):
        assert shown(template % values) == template % values


def test_a_text_inside_another_is_shown_too_and_the_words_of_strangers_stay() -> None:
    pause = "connection failed (no greeting from mail.example.com:465 in 60 s; that port may begin with TLS)"
    reply = "authentication refused (mail.example.com:587: login: 535 5.7.8 100% wrong password)"
    with override("ja"):
        assert "no greeting" not in shown(pause)
        assert "connection" not in shown(pause)
        assert "mail.example.com:465" in shown(pause)
        assert "535 5.7.8 100% wrong password" in shown(reply)
        assert "login" not in shown(reply)
        assert shown("550 5.1.1 user unknown") == "550 5.1.1 user unknown"
        assert shown("550 an error in the connection") == "550 an error in the connection"


def test_a_text_that_was_cut_is_recognised() -> None:
    text = "mail:25: clear text is not allowed to this host: choose STARTTLS or implicit TLS, or, on a net…"
    with override("ja"):
        assert "clear text" not in shown(text)


def test_a_text_that_was_cut_behind_a_value_is_recognised() -> None:
    text = "password: The reference is not the name of a variable. A secret that begins like this is written wi…"
    with override("ja"):
        assert shown(text).startswith("password: 参照 変数の名前ではありません。")
        stranger = "The reference of your message is not one that we know, and we refuse it. A second try is us…"
        assert shown(stranger) == stranger


def test_advice_sees_the_texts_as_they_are_stored() -> None:
    with override("ja"), as_stored():
        assert shown("the server does not offer STARTTLS") == "the server does not offer STARTTLS"
