"""``check`` reports mistakes in MAILERS and handlers that mail their own failures before the first message does."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from django.core import checks, mail
from django.core.checks import registry
from django.utils.log import AdminEmailHandler

from prx_email_django.backends import OutboxEmailBackend
from prx_email_django.checks.mailers import check_admin_email_handler, check_mailers

PATH = "prx_email_django.backends.OutboxEmailBackend"
SMTP = "django.core.mail.backends.smtp.EmailBackend"
HAS_MAILERS = hasattr(mail, "mailers")


class WithMore(OutboxEmailBackend):
    """A backend of the host project with an additional option."""

    outbox_options = OutboxEmailBackend.outbox_options | {"list_name"}


def found(settings: Any, options: dict[str, Any], path: str = PATH) -> list[checks.CheckMessage]:
    settings.MAILERS = {"default": {"BACKEND": SMTP, "OPTIONS": {"host": "x"}}, "bulk": {"BACKEND": path}}
    settings.MAILERS["bulk"]["OPTIONS"] = options
    return check_mailers(None)


@pytest.mark.parametrize(
    ("options", "expected", "text"),
    [
        ({"acount": "main"}, "E030", "account"),
        ({"something_else": 1}, "E030", "expires_after"),
        ({"account": ""}, "E031", "'account' must be the name of an account."),
        ({"account": 7}, "E031", "'account' must be the name of an account."),
        ({"priority": 11}, "E032", "'priority' must be an integer from -10 to 10."),
        ({"priority": "1"}, "E032", "'priority' must be an integer from -10 to 10."),
        ({"priority": True}, "E032", "'priority' must be an integer from -10 to 10."),
        ({"expires_after": "soon"}, "E033", "'expires_after' must be a duration: "),
        ({"expires_after": 0}, "E033", "'expires_after' must be a duration: "),
        ({"on_unknown": "drop"}, "E034", '\'on_unknown\' must be "retry" or "hold".'),
    ],
)
def test_a_mistake_in_options_says_what_must_be_true(
    options: dict[str, Any], expected: str, text: str, settings: Any
) -> None:
    (problem,) = found(settings, options)
    assert problem.id == f"prx_email_django.{expected}"
    assert problem.level == checks.ERROR
    assert "bulk" in problem.msg
    assert text in f"{problem.msg} {problem.hint}"
    assert problem.hint


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"account": "main", "priority": -10, "expires_after": "6h", "on_unknown": "hold"},
        {"expires_after": 30, "on_unknown": "retry", "fail_silently": True},
    ],
)
def test_options_that_are_right_are_left_alone(options: dict[str, Any], settings: Any) -> None:
    assert found(settings, options) == []


def test_every_mistake_is_reported_at_once(settings: Any) -> None:
    assert len(found(settings, {"acount": 1, "priority": 99, "on_unknown": "x", "expires_after": "y"})) == 4


def test_a_backend_of_the_hosts_names_its_own_options(settings: Any) -> None:
    assert found(settings, {"list_name": "x"}, path=f"{__name__}.WithMore") == []
    assert len(found(settings, {"list_nam": "x"}, path=f"{__name__}.WithMore")) == 1


@pytest.mark.parametrize("path", [SMTP, "no.such.Backend", "json.dumps", None])
def test_other_backends_are_not_checked(path: Any, settings: Any) -> None:
    assert found(settings, {"acount": 1}, path=path) == []


@pytest.mark.parametrize("configured", [None, [], {"default": None}, {"default": {"BACKEND": PATH, "OPTIONS": None}}])
def test_malformed_mailers_do_not_break_the_check(configured: Any, settings: Any) -> None:
    settings.MAILERS = configured
    assert check_mailers(None) == []


def test_the_checks_are_registered() -> None:
    registered = registry.registry.get_checks(include_deployment_checks=True)
    names = {getattr(check, "__name__", "") for check in registered}
    assert {"check_mailers", "check_admin_email_handler"} <= names


@pytest.fixture
def handler() -> Iterator[AdminEmailHandler]:
    """A handler on the root logger."""
    handler = AdminEmailHandler()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


def use(settings: Any, path: str) -> None:
    """Make this backend the default."""
    settings.ADMINS = ["admin@example.com"]
    if HAS_MAILERS:
        settings.MAILERS = {"default": {"BACKEND": path}, "direct": {"BACKEND": SMTP}}
    else:
        settings.EMAIL_BACKEND = path


def test_a_root_handler_that_mails_through_the_outbox_is_warned_of(handler: AdminEmailHandler, settings: Any) -> None:
    use(settings, PATH)
    (problem,) = check_admin_email_handler(None)
    assert problem.id == "prx_email_django.W030"
    assert "SMTP" in str(problem.hint)


def test_a_handler_on_our_own_logger_is_warned_of(settings: Any) -> None:
    use(settings, PATH)
    handler = AdminEmailHandler()
    logger = logging.getLogger("prx_email_django")
    logger.addHandler(handler)
    try:
        assert len(check_admin_email_handler(None)) == 1
    finally:
        logger.removeHandler(handler)


def test_a_root_handler_with_another_backend_is_fine(handler: AdminEmailHandler, settings: Any) -> None:
    use(settings, PATH)
    if HAS_MAILERS:
        handler.using = "direct"
    else:
        handler.email_backend = SMTP
    assert check_admin_email_handler(None) == []


def test_without_admins_there_is_no_warning(handler: AdminEmailHandler, settings: Any) -> None:
    use(settings, PATH)
    settings.ADMINS = []
    assert check_admin_email_handler(None) == []


def test_a_host_without_the_outbox_or_without_a_handler_is_fine(settings: Any) -> None:
    use(settings, PATH)
    assert check_admin_email_handler(None) == []


def test_a_root_handler_with_djangos_own_backend_is_fine(handler: AdminEmailHandler, settings: Any) -> None:
    use(settings, SMTP)
    assert check_admin_email_handler(None) == []
