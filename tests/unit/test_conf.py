"""Settings: an invalid setting is named, and ``override_settings`` always takes effect."""

from __future__ import annotations

import dataclasses
import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet, MultiFernet
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from prx_email_django.conf import OutboxSettings, outbox_settings, parse_duration
from prx_email_django.conf import reader as conf
from prx_email_django.conf.durations import Retention
from prx_email_django.conf.problems import problems
from prx_email_django.conf.table import SETTINGS

KEY_LIST = ["a passphrase of the old days", "another passphrase, older yet"]


def keys_of_a_service() -> list[str]:
    return KEY_LIST


def no_keys() -> list[str]:
    return []


def configured(**values: Any) -> override_settings:
    return override_settings(PRX_EMAIL=values)


def read(**values: Any) -> OutboxSettings:
    with configured(**values):
        return outbox_settings()


def problem_ids(**values: Any) -> list[tuple[str, str]]:
    with configured(**values):
        return [(problem.key, problem.id.rpartition(".")[2]) for problem in problems()]


def test_the_defaults_are_those_that_are_documented() -> None:
    settings = read()
    assert settings.base_backoff == timedelta(seconds=5)
    assert settings.max_backoff == timedelta(hours=6)
    assert settings.give_up_after == timedelta(days=5)
    assert settings.lease == timedelta(minutes=3)
    assert settings.max_retries is None
    assert settings.max_unknown_outcomes == 6
    assert settings.attachment_max_size == 25 * 1024 * 1024
    assert settings.attachment_content_types >= {"application/pdf", "text/plain"}
    assert settings.retention == Retention(
        sent=timedelta(days=90), failed=timedelta(days=365), inbound=timedelta(days=90), content=None
    )
    assert (settings.redirect_to, settings.redirect_except, settings.oauth_callables) == ((), (), ())
    assert (settings.transport, settings.on_unknown, settings.message_id_domain) == ("smtp", "retry", "prx-email.local")


def test_no_default_is_a_problem_and_every_setting_has_its_attribute() -> None:
    with override_settings():
        assert not problems()
    attributes = {field.name.upper() for field in dataclasses.fields(OutboxSettings)}
    names = [setting.name for setting in SETTINGS]
    assert (attributes - {"KEY_SOURCE"}) | {"CREDENTIAL_KEYS"} == set(names)
    assert len(names) == len(set(names))
    assert all(setting.kind.example for setting in SETTINGS)


def test_a_default_that_its_own_reader_refuses_is_no_default() -> None:
    for setting in SETTINGS:
        setting.kind.read(setting.default)


def test_override_settings_is_never_answered_from_the_cache() -> None:
    before = outbox_settings()
    with configured(LEASE=60):
        assert outbox_settings().lease == timedelta(minutes=1)
        assert outbox_settings() is outbox_settings()
    assert outbox_settings() == before


@pytest.mark.parametrize("setting", ["SECRET_KEY", "SECRET_KEY_FALLBACKS"])
def test_keys_follow_the_secret_key(setting: str) -> None:
    before = outbox_settings().credential_keys
    with override_settings(**{setting: "another key" if setting == "SECRET_KEY" else ["the former key"]}):
        assert outbox_settings().credential_keys != before


def test_the_wake_up_is_django_q2s_only_where_that_is_installed() -> None:
    with override_settings(INSTALLED_APPS=["django.contrib.contenttypes"], PRX_EMAIL={}):
        assert outbox_settings().wake == ""
        assert not conf.django_q_installed()
    with override_settings(INSTALLED_APPS=["django_q"], PRX_EMAIL={}):
        assert outbox_settings().wake == "prx_email_django.tasks.wake"
    with override_settings(INSTALLED_APPS=["django_q"], PRX_EMAIL={"WAKE": ""}):
        assert outbox_settings().wake == ""
    assert read(WAKE="project.mail.wake").wake == "project.mail.wake"


# --- problems are named ---------------------------------------------------------------------------------------------

WRONG: dict[str, list[object]] = {
    "INSTANCE": [None, 5, "two\nlines", "x" * 101],
    "DEFAULT_ACCOUNT": [5],
    "MESSAGE_ID_DOMAIN": ["", "a b", "x@y", "a..b", "-a", None],
    "BASE_BACKOFF": [0, -1, "5", "5 minutes", None, True, math.inf, math.nan, "1e400d", 10**400],
    "MAX_RETRIES": [0, -1, "3", True, 1.5],
    "MAX_UNKNOWN_OUTCOMES": [0, None, False],
    "REFUSALS_IN_A_ROW": [-1, None, False, "10"],
    "GIVE_UP_AFTER": [None, "never"],
    "LEASE": ["3 min", []],
    "ON_UNKNOWN": ["Retry", None, ""],
    "ATTACHMENT_MAX_SIZE": ["25M", -1, None],
    "ATTACHMENT_CONTENT_TYPES": ["text/plain", ["text"], ["text/plain; charset=utf-8"], None, [5]],
    "ATTACHMENT_STORE": ["relative/path", "", 5],
    "CREDENTIAL_KEYS": [[], ["short"], "not a path", [None], {"a": 1}, b"0" * 44],
    "CLEARTEXT_HOSTS": ["relay", ["10.0.0.1/8"], ["a b"], ["300.1.1.1"], [""], None],
    "TLS_CA_FILE": [5, "ca.pem"],
    "OAUTH_CALLABLES": ["project.token", ["token"], [5], None],
    "TRANSFORM_MIME": ["function", 5, "a.b-c", len],
    "WAKE": ["wake", 5],
    "REDIRECT_TO": ["nobody", [""], ["a@x, b@y"], "Ann <a@x>", 5, "a@x\nb"],
    "REDIRECT_EXCEPT": ["*@example.com", ["example.com"], None],
    "TRANSPORT": ["SMTP", "", None],
    "ACCOUNT_ROUTER": ["router"],
    "AUTO_SCHEDULE": [1, "yes", None],
    "RETENTION": [None, "90d", {"snet": "90d"}, {"sent": 0}, {"sent": "90"}],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_a_wrong_value_is_named_before_it_does_harm(key: str, value: object) -> None:
    with configured(**{key: value}):
        [problem] = problems()
        assert (problem.key, problem.id) == (key, "prx_email_django.E003")
        assert key in problem.message
        assert problem.hint.startswith("Write ")
        assert problem.level == checks.ERROR
        with pytest.raises(ImproperlyConfigured, match=key):
            outbox_settings()


def test_a_mistyped_redirect_does_not_mail_real_people() -> None:
    with (
        configured(REDIRECT_T0="me@example.com"),
        pytest.raises(ImproperlyConfigured, match=r'REDIRECT_T0.*"REDIRECT_TO"'),
    ):
        outbox_settings()
    assert problem_ids(REDIRECT_T0="me@example.com") == [("REDIRECT_T0", "E002")]


def test_an_unknown_setting_without_a_similar_one_lists_all_settings() -> None:
    with configured(ZZZ=1):
        [problem] = problems()
    assert "RETENTION" in problem.hint


def test_a_mistyped_key_of_retention_is_named() -> None:
    with (
        configured(RETENTION={"snet": "1d"}),
        pytest.raises(ImproperlyConfigured, match=r"'snet' \(did you mean 'sent'\?\)"),
    ):
        outbox_settings()


def test_settings_that_are_not_a_dict_are_reported() -> None:
    with override_settings(PRX_EMAIL=["LEASE"]):
        [problem] = problems()
        with pytest.raises(ImproperlyConfigured, match="PRX_EMAIL must be a dict"):
            outbox_settings()
    assert problem.id == "prx_email_django.E001"


def test_a_base_above_the_cap_is_refused() -> None:
    assert problem_ids(BASE_BACKOFF="1h", MAX_BACKOFF="1m") == [("MAX_BACKOFF", "E004")]
    with configured(BASE_BACKOFF="1h", MAX_BACKOFF="1m"), pytest.raises(ImproperlyConfigured, match="Write 3600"):
        outbox_settings()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"LEASE": 29, "SEND_DEADLINE": 5}, ("LEASE", "W001")),
        ({"SEND_DEADLINE": 181}, ("SEND_DEADLINE", "W002")),
        ({"GIVE_UP_AFTER": "1h"}, ("GIVE_UP_AFTER", "W003")),
        ({"ATTACHMENT_STORE": "/nowhere/at/all"}, ("ATTACHMENT_STORE", "W004")),
        ({"TLS_CA_FILE": "/nowhere/ca.pem"}, ("TLS_CA_FILE", "W005")),
    ],
)
def test_a_risky_value_is_warned_of_and_works(values: dict[str, object], expected: tuple[str, str]) -> None:
    assert problem_ids(**values) == [expected]
    with configured(**values):
        assert problems()[0].level == checks.WARNING
    read(**values)


@pytest.mark.parametrize("key", ["TRANSFORM_MIME", "WAKE", "ACCOUNT_ROUTER", "CREDENTIAL_KEYS"])
@pytest.mark.parametrize("path", ["no.such.function", "tests.unit.test_conf.nothing", "tests.unit.test_conf.KEY_LIST"])
def test_a_path_to_no_function_is_reported_by_the_checks(key: str, path: str) -> None:
    assert problem_ids(**{key: path}) == [(key, "E005")]


def test_each_token_function_is_looked_for() -> None:
    paths = ["tests.unit.test_conf.keys_of_a_service", "no.such", "not.there"]
    assert problem_ids(OAUTH_CALLABLES=paths) == [("OAUTH_CALLABLES", "E005")] * 2


def test_all_problems_are_reported_at_once() -> None:
    assert problem_ids(LEASES=1, TRANSPORT="x", WAKE="no.such") == [
        ("LEASES", "E002"),
        ("TRANSPORT", "E003"),
        ("WAKE", "E005"),
    ]


@pytest.mark.parametrize("keys", [["0123456789"], ["not a path", 5], "hunter2hunter2hunter2 !"])
def test_no_problem_shows_a_key(keys: object) -> None:
    with configured(CREDENTIAL_KEYS=keys):
        shown = repr(problems())
        with pytest.raises(ImproperlyConfigured) as caught:
            outbox_settings()
    for key in [keys] if isinstance(keys, str) else keys:  # type: ignore[attr-defined]
        assert str(key) not in shown.replace("E005", "")
        assert str(key) not in str(caught.value)


# --- how values are read --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (30, 30),
        (0.5, 0.5),
        ("30s", 30),
        ("10m", 600),
        ("6h", 21_600),
        ("5d", 432_000),
        ("90d", 7_776_000),
        ("2w", 1_209_600),
    ],
)
def test_a_duration_in_every_form(written: object, seconds: float) -> None:
    assert parse_duration(written) == timedelta(seconds=seconds)
    assert parse_duration(timedelta(seconds=seconds)) == timedelta(seconds=seconds)


@given(st.one_of(st.text(), st.floats(), st.integers(), st.booleans(), st.none(), st.binary(), st.timedeltas()))
def test_no_text_or_number_makes_reading_a_duration_crash(value: object) -> None:
    try:
        assert parse_duration(value) >= timedelta(0)
    except ValueError as error:
        assert "duration" in str(error)  # noqa: PT017


def test_types_are_compared_without_regard_to_case() -> None:
    assert read(ATTACHMENT_CONTENT_TYPES=["Text/CSV"]).attachment_content_types == {"text/csv"}


def test_one_address_or_many_redirect() -> None:
    assert read(REDIRECT_TO="me@example.com").redirect_to == ("me@example.com",)
    assert read(REDIRECT_TO=["a@localhost", "b@example.com"]).redirect_to == ("a@localhost", "b@example.com")
    assert read(REDIRECT_EXCEPT=["*@Example.com"]).redirect_except == ("*@example.com",)


def test_loopback_stays_allowed_when_other_hosts_are_named() -> None:
    hosts = read(CLEARTEXT_HOSTS=["Relay.Internal", "10.1.2.0/24", "[fd00::1]"]).cleartext_hosts
    assert hosts == ("localhost", "127.0.0.0/8", "::1/128", "relay.internal", "10.1.2.0/24", "fd00::1/128")


def test_retention_keeps_the_defaults_of_what_it_does_not_name() -> None:
    retention = read(RETENTION={"content": "30d", "failed": None}).retention
    assert (retention.sent, retention.failed, retention.content) == (timedelta(days=90), None, timedelta(days=30))


def test_paths_are_paths(tmp_path: Path) -> None:
    assert read(ATTACHMENT_STORE=str(tmp_path)).attachment_store == tmp_path
    assert read(ATTACHMENT_STORE=tmp_path, TLS_CA_FILE=None).attachment_store == tmp_path


# --- keys -----------------------------------------------------------------------------------------------------------


def test_a_fernet_key_is_taken_as_it_is() -> None:
    key = Fernet.generate_key()
    assert read(CREDENTIAL_KEYS=[key]).credential_keys == (key,)
    assert read(CREDENTIAL_KEYS=(key.decode(),)).credential_keys == (key,)


def test_passphrases_make_good_keys_that_stay_the_same() -> None:
    first = read(CREDENTIAL_KEYS=KEY_LIST).credential_keys
    assert first == read(CREDENTIAL_KEYS="tests.unit.test_conf.keys_of_a_service").credential_keys
    assert len(set(first)) == 2
    MultiFernet([Fernet(key) for key in first])
    # 44 characters that are not base64 are a passphrase too.
    Fernet(read(CREDENTIAL_KEYS=["a passphrase, just as long as a Fernet key!!"]).credential_keys[0])


def test_what_the_former_secret_key_encrypted_can_still_be_read() -> None:
    with override_settings(SECRET_KEY="one", SECRET_KEY_FALLBACKS=[], PRX_EMAIL={}):
        [former] = outbox_settings().credential_keys
    with override_settings(SECRET_KEY="two", SECRET_KEY_FALLBACKS=["one"], PRX_EMAIL={}):
        newest, fallback = outbox_settings().credential_keys
    assert fallback == former != newest


@pytest.mark.parametrize("path", ["tests.unit.test_conf.no_keys", "no.such.function"])
def test_a_failing_key_service_is_reported_when_a_key_is_needed(path: str) -> None:
    with configured(CREDENTIAL_KEYS=path):
        settings = outbox_settings()
        with pytest.raises(ImproperlyConfigured, match="CREDENTIAL_KEYS"):
            _ = settings.credential_keys


def test_no_key_is_in_the_repr() -> None:
    assert KEY_LIST[0] not in repr(read(CREDENTIAL_KEYS=KEY_LIST))


# --- what else is read here -----------------------------------------------------------------------------------------


def test_the_host_settings_that_others_need() -> None:
    with override_settings(DEFAULT_FROM_EMAIL="us@example.com", USE_TZ=True, Q_CLUSTER={"retry": 7}):
        assert (conf.default_from_email(), conf.use_tz()) == ("us@example.com", True)
        assert conf.q_cluster() == {"retry": 7}
    with override_settings(Q_CLUSTER=None):
        assert conf.q_cluster() == {}
