"""The account form: it never shows a secret, and a save writes only the fields that this person changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from html import unescape
from html.parser import HTMLParser
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from prx_email_django.limits.pauses import account_state
from prx_email_django.models import Account, AccountState, OutboxMessage, OutboxState
from prx_email_django.models.encrypted import Ciphertext, is_set
from tests.integration import admin_rows as rows

pytestmark = pytest.mark.django_db


class Fields(HTMLParser):
    """Return the values that a browser submits from the account form."""

    def __init__(self) -> None:
        super().__init__()
        self.data: dict[str, str] = {}
        self._inside = False
        self._select = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "form":
            self._inside = given.get("id") == "account_form"
        if not self._inside:
            return
        name = given.get("name") or ""
        if tag == "select":
            self._select = name
        elif tag == "option" and "selected" in given:
            self.data[self._select] = given.get("value") or ""
        elif tag == "input" and name and self._is_sent(given):
            self.data[name] = given.get("value") or ("on" if given.get("type") == "checkbox" else "")

    @staticmethod
    def _is_sent(given: dict[str, str | None]) -> bool:
        kind = given.get("type")
        return kind not in {"submit", "checkbox", "radio"} or (kind != "submit" and "checked" in given)


def opened(client: Client, account: Account) -> dict[str, str]:
    """Return the form data after opening the page."""
    parser = Fields()
    parser.feed(client.get(url_of(account)).content.decode())
    return parser.data


def url_of(account: Account) -> str:
    return f"{rows.ACCOUNTS}{account.pk}/change/"


def errors_of(response: Any) -> dict[str, list[str]]:
    assert response.status_code == 200, "it was saved"
    return dict(response.context["adminform"].form.errors)


def save(client: Client, account: Account, **changes: str) -> Any:
    return client.post(url_of(account), {**opened(client, account), **changes})


def test_a_stored_secret_is_never_shown() -> None:
    account = rows.make_account(oauth_refresh_token="rt-stored", oauth_client_secret="cs-stored")
    page = rows.client_for("*").get(url_of(account)).content.decode()
    for secret in ("pw-stored-1", "rt-stored", "cs-stored", "v1:"):
        assert secret not in page
    assert "A value is stored; it is never shown" in page


def test_who_may_only_look_sees_whether_a_secret_is_set_and_no_more() -> None:
    account = rows.make_account(oauth_refresh_token="rt-stored")
    response = rows.client_for("view_account").get(url_of(account))
    page = response.content.decode()
    assert response.status_code == 200
    for secret in ("pw-stored-1", "rt-stored", "v1:", "********"):
        assert secret not in page
    assert page.count("not set") == 2 and page.count('readonly">set<') == 2
    assert 'type="password"' not in page


def test_an_empty_field_keeps_the_secret_and_a_typed_one_replaces_it() -> None:
    account = rows.make_account()
    client = rows.client_for("*")
    assert save(client, account, display_name="Shop").status_code == 302
    assert Account.objects.get().password == "pw-stored-1"
    assert save(client, account, password="pw-typed-2").status_code == 302
    assert Account.objects.get().password == "pw-typed-2"


def test_a_typed_secret_is_not_sent_back_with_an_error() -> None:
    account = rows.make_account()
    response = save(rows.client_for("*"), account, password="pw-typed-2", port="70000")
    assert "port" in errors_of(response)
    assert "pw-typed-2" not in response.content.decode()


def test_a_box_clears_a_secret() -> None:
    account = rows.make_account(oauth_refresh_token="rt-stored")
    client = rows.client_for("*")
    assert save(client, account, clear_oauth_refresh_token="on").status_code == 302
    assert not is_set(Account.objects.get(), "oauth_refresh_token")
    assert "clear_oauth_refresh_token" not in client.get(url_of(account)).content.decode()


def test_to_type_and_to_clear_contradict_each_other() -> None:
    account = rows.make_account()
    response = save(rows.client_for("*"), account, password="pw-typed-2", clear_password="on")
    assert "not both" in str(errors_of(response)["password"])


def test_from_password_to_token_in_one_step() -> None:
    account = rows.make_account()
    changes = {"clear_password": "on", "oauth_token": "token-typed", "auth_method": "xoauth2"}
    assert save(rows.client_for("*"), account, **changes).status_code == 302
    stored = Account.objects.get()
    assert (stored.auth_method, stored.password, stored.oauth_token) == ("xoauth2", "", "token-typed")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("host", "smtp.evil.example"),
        ("port", "2465"),
        ("security", "starttls"),
        ("user", "other@example.com"),
        ("oauth_token_url", "https://evil.example/token"),
        ("oauth_provider", "google"),
        ("oauth_tenant", "evil"),
    ],
)
def test_a_new_destination_requires_every_stored_secret_again(field: str, value: str) -> None:
    account = rows.make_account(oauth_client_secret="cs-stored")
    client = rows.client_for("*")
    errors = errors_of(save(client, account, **{field: value}))
    assert "Enter this secret again" in str(errors["password"])
    assert "Enter this secret again" in str(errors["oauth_client_secret"])
    assert getattr(Account.objects.get(), field) != value
    typed = {"password": "pw-typed-2", "clear_oauth_client_secret": "on"}
    assert save(client, account, **{field: value, **typed}).status_code == 302


def test_a_destination_that_only_looks_different_demands_nothing() -> None:
    account = rows.make_account()
    assert save(rows.client_for("*"), account, security="").status_code == 302
    assert Account.objects.get().security == "tls"


def test_a_form_opened_before_a_rotation_does_not_write_the_old_values_back() -> None:
    expiry = timezone.now().replace(microsecond=0)
    account = rows.make_account(
        password="", auth_method="xoauth2", oauth_token="token-old", oauth_token_expires_at=expiry
    )
    client = rows.client_for("*")
    form = opened(client, account)
    later = expiry + timedelta(hours=1)
    rotated = Account.objects.get()
    rotated.oauth_token, rotated.oauth_token_expires_at, rotated.max_connections = "token-new", later, 7
    rotated.save()
    assert client.post(url_of(account), {**form, "display_name": "Shop"}).status_code == 302
    stored = Account.objects.get()
    assert stored.display_name == "Shop"
    assert stored.oauth_token == "token-new"
    assert stored.oauth_token_expires_at == later
    assert stored.max_connections == 7


def updates_of_accounts(captured: CaptureQueriesContext) -> list[str]:
    table = connection.ops.quote_name(Account._meta.db_table)
    return [query["sql"] for query in captured.captured_queries if query["sql"].startswith(f"UPDATE {table} ")]


def test_a_save_writes_only_the_columns_that_changed() -> None:
    account = rows.make_account()
    client = rows.client_for("*")
    form = opened(client, account)
    with CaptureQueriesContext(connection) as captured:
        client.post(url_of(account), {**form, "display_name": "Shop"})
    (written,) = updates_of_accounts(captured)
    assert "display_name" in written
    for column in ("host", "password", "oauth_token", "max_connections"):
        assert column not in written


def test_a_save_without_a_change_writes_nothing() -> None:
    account = rows.make_account()
    client = rows.client_for("*")
    form = opened(client, account)
    with CaptureQueriesContext(connection) as captured:
        client.post(url_of(account), form)
    assert not updates_of_accounts(captured)


def test_a_password_typed_for_one_server_is_not_saved_for_another() -> None:
    account = rows.make_account()
    client = rows.client_for("*")
    form = opened(client, account)
    Account.objects.filter(pk=account.pk).update(host="smtp.elsewhere.example")
    errors = errors_of(client.post(url_of(account), {**form, "password": "pw-typed-2"}))
    assert "Another person has changed Host" in str(errors["__all__"])
    assert Account.objects.get().password == "pw-stored-1"


def test_new_credentials_end_the_pause_that_the_old_ones_caused() -> None:
    account = rows.make_account()
    account_state(account)
    AccountState.objects.update(paused_by="worker", pause_reason="authentication refused", paused_at=timezone.now())
    save(rows.client_for("*"), account, password="pw-typed-2")
    assert AccountState.objects.get().pause_reason == ""


def test_the_history_names_fields_and_no_values() -> None:
    account = rows.make_account()
    save(rows.client_for("*"), account, password="pw-typed-2", clear_password="")
    entry = LogEntry.objects.get()
    assert "Password" in entry.change_message
    assert "pw-" not in entry.change_message + entry.object_repr


def test_an_account_is_added_with_the_presets_at_hand() -> None:
    client = rows.client_for("*")
    url = f"{rows.ACCOUNTS}add/"
    page = unescape(client.get(url).content.decode())
    assert "smtp.office365.com" in page
    filled = client.get(f"{url}?preset=outlook&oauth_provider=microsoft").context["adminform"].form
    assert (filled["host"].value(), filled["port"].value()) == ("smtp.office365.com", 587)
    assert filled["oauth_provider"].value() == "microsoft"
    assert 'href="?preset=outlook&oauth_provider=microsoft"' in page
    form = {
        "name": "main",
        "host": "smtp.gmail.com",
        "port": "465",
        "user": "u@example.com",
        "password": "pw-typed-2",
        "max_connections": "3",
        "max_messages_per_connection": "100",
        "max_in_flight": "4",
        "pipelining": "auto",
        "is_active": "on",
    }
    assert client.post(url, form).status_code == 302
    account = Account.objects.get()
    assert (account.security, account.auth_method, account.password) == ("tls", "password", "pw-typed-2")


def test_rules_of_an_account_are_reported_at_the_field() -> None:
    errors = errors_of(save(rows.client_for("*"), rows.make_account(), rate_limits="often"))
    assert "rate_limits" in errors


def test_a_lost_key_leaves_the_form_open_for_a_new_secret() -> None:
    account = rows.make_account()
    Account.objects.update(password=Ciphertext(label="prx_email_django.account.password", stored="v1:gAAAAA-not-ours"))
    client = rows.client_for("*")
    assert "decrypted" in str(errors_of(save(client, account, display_name="Shop"))["password"])
    assert save(client, account, password="pw-typed-2").status_code == 302
    assert Account.objects.get().password == "pw-typed-2"


def test_the_list_shows_the_pause_and_asks_the_same_queries_for_any_number() -> None:
    client = rows.client_for("*")

    def count() -> int:
        client.get(rows.ACCOUNTS)
        with CaptureQueriesContext(connection) as captured:
            assert client.get(rows.ACCOUNTS).status_code == 200
        return len(captured)

    first = rows.make_account("first")
    rows.at_rest(first)
    few = count()
    for number in range(20):
        account = rows.make_account(f"account {number}")
        rows.at_rest(account)
        account_state(account)
    AccountState.objects.update(paused_by="worker", pause_reason="authentication refused (535)")
    assert count() == few
    page = unescape(client.get(rows.ACCOUNTS).content.decode())
    assert "authentication refused (535)" in page
    assert (
        "many providers require an app password" in client.get(f"{rows.ACCOUNTS}{account.pk}/change/").content.decode()
    )
    assert f'<a href="{rows.MESSAGES}?account__id__exact={first.pk}&status=at_rest">1</a>' in page


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_a_pause_needs_a_post_and_the_permission(verb: str) -> None:
    account = rows.make_account()
    account_state(account)
    if verb == "resume":
        AccountState.objects.update(paused_by="person", pause_reason="moving")
    before = list(AccountState.objects.values())
    url = f"{rows.ACCOUNTS}{account.pk}/{verb}/"
    assert rows.client_for("*").get(url).status_code == 405
    assert rows.client_for("view_account").post(url, {"reason": "x"}).status_code == 403
    assert Client().post(url, {"reason": "x"}).status_code == 302
    assert list(AccountState.objects.values()) == before


def test_pause_and_resume_by_button() -> None:
    account = rows.make_account()
    client = rows.client_for("change_account")
    url = f"{rows.ACCOUNTS}{account.pk}/"
    assert "Reason" in rows.notices(client.post(f"{url}pause/", {"reason": ""}, follow=True))[0]
    past = {"reason": "x", "until": "2020-01-01T00:00"}
    assert "future" in rows.notices(client.post(f"{url}pause/", past, follow=True))[0]
    until = {"reason": "moving", "until": "2199-01-01T10:30"}
    assert rows.notices(client.post(f"{url}pause/", until, follow=True)) == ["1 account is paused."]
    assert account.pause_reason == "moving"
    assert account.paused_until is not None
    assert account.paused_until.year == 2199
    assert rows.notices(client.post(f"{url}resume/", follow=True)) == ["1 account is resumed.", "main: may send."]
    assert account.pause_reason == ""
    assert rows.notices(client.post(f"{url}resume/", follow=True)) == ["1 account was not paused."]
    assert [entry.change_message for entry in LogEntry.objects.order_by("pk")] == ["Paused.", "Resumed."]


def test_the_end_of_a_pause_is_entered_and_shown_in_the_zone_of_the_person(settings: Any) -> None:
    """In a wrong zone a pause ends hours too early; the form and the pages say which zone it is."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.tokyo"]
    account = rows.make_account()
    client = rows.client_for("*")
    url = f"{rows.ACCOUNTS}{account.pk}/"
    assert "In the time zone Asia/Tokyo. Leave empty" in client.get(f"{url}change/").content.decode()
    client.post(f"{url}pause/", {"reason": "moving", "until": "2199-01-01T10:30"})
    assert account.paused_until == datetime(2199, 1, 1, 1, 30, tzinfo=UTC)
    page = client.get(f"{url}change/").content.decode()
    assert "aused by a person until 2199-01-01 10:30 JST: moving." in page
    assert 'title="2199-01-01 10:30:00 JST">in ' in page
    client.post(f"{rows.ADMIN}outboxstate/pause/", {"reason": "holidays", "until": "2199-01-02T08:00"})
    assert "Everything is paused until 2199-01-02 08:00 JST: holidays" in client.get(rows.MESSAGES).content.decode()


def tokyo(get_response: Any) -> Any:
    """Middleware of a host that knows the zone of each person."""

    def middleware(request: Any) -> Any:
        with timezone.override("Asia/Tokyo"):
            return get_response(request)

    return middleware


def test_pause_and_resume_in_bulk() -> None:
    accounts = [rows.make_account(name) for name in ("one", "two")]
    client = rows.client_for("change_account")
    data = {"action": "pause_selected", "_selected_action": [account.pk for account in accounts]}
    assert "Reason" in client.post(rows.ACCOUNTS, data).content.decode()
    assert not AccountState.objects.exclude(pause_reason="").exists()
    done = client.post(rows.ACCOUNTS, {**data, "reason": "moving"}, follow=True)
    assert rows.notices(done) == ["2 accounts are paused."]
    done = client.post(rows.ACCOUNTS, {**data, "action": "resume_selected"}, follow=True)
    assert rows.notices(done)[0] == "2 accounts are resumed."
    assert len(rows.notices(done)) == 3


def test_an_account_with_messages_is_kept_and_one_without_goes_with_what_it_owns() -> None:
    kept, gone = rows.make_account("kept"), rows.make_account("gone")
    rows.sent(kept)
    account_state(gone)
    client = rows.client_for("view_account", "change_account", "delete_account")
    page = client.post(f"{rows.ACCOUNTS}{kept.pk}/delete/", {"post": "yes"})
    assert "messages of the account kept" in page.content.decode()
    assert client.post(f"{rows.ACCOUNTS}{gone.pk}/delete/", {"post": "yes"}).status_code == 302
    assert [account.name for account in Account.objects.all()] == ["kept"]
    assert OutboxMessage.objects.count() == 1


def test_everything_is_paused_and_resumed_by_post_only() -> None:
    url = f"{rows.ADMIN}outboxstate/"
    client = rows.client_for("change_outboxstate", "view_outboxmessage")
    assert client.get(f"{url}pause/").status_code == 405
    assert client.get(f"{url}resume/").status_code == 405
    assert not OutboxState.objects.exclude(pause_reason="").exists()
    assert "Reason" in rows.notices(client.post(f"{url}pause/", {}, follow=True))[0]
    client.post(f"{url}pause/", {"reason": "moving house"})
    assert OutboxState.objects.get().pause_reason == "moving house"
    assert "moving house" in client.get(rows.MESSAGES).content.decode()
    looker = rows.client_for("view_outboxstate")
    assert looker.post(f"{url}resume/").status_code == 403
    assert "Resume everything" not in looker.get(url).content.decode()
    assert rows.notices(client.post(f"{url}resume/", follow=True)) == ["The outbox is resumed."]
    assert OutboxState.objects.get().pause_reason == ""
    assert rows.notices(client.post(f"{url}resume/", follow=True)) == ["The outbox was not paused."]


def test_another_method_leaves_nothing_of_the_old_one_behind() -> None:
    """The fields of the old method are not shown any more: nobody could clear them, and the account is not valid."""
    account = rows.make_account(auth_mechanism="login")
    changes = {"auth_method": "xoauth2", "oauth_token": "token-typed"}
    client = rows.client_for("*")
    assert save(client, account, **changes).status_code == 302
    stored = Account.objects.get()
    assert (stored.password, stored.oauth_token, stored.auth_mechanism) == ("", "token-typed", "auto")
    assert save(client, stored, auth_method="none").status_code == 302
    stored = Account.objects.get()
    assert (stored.user, stored.oauth_token, stored.auth_method) == ("", "", "none")


def test_a_new_method_without_its_secret_is_refused_and_the_old_secret_kept() -> None:
    account = rows.make_account()
    errors = errors_of(save(rows.client_for("*"), account, auth_method="xoauth2"))
    assert "Set a token" in str(errors["oauth_token"])
    assert Account.objects.get().password == "pw-stored-1"


def test_a_reference_is_shown_and_a_secret_is_not() -> None:
    account = rows.make_account(password="env:SHOP_<PASSWORD>", oauth_refresh_token="rt-stored")
    page = rows.client_for("*").get(url_of(account)).content.decode()
    assert "Set by reference: env:SHOP_&lt;PASSWORD&gt;" in page
    assert "rt-stored" not in page
    assert "Not set." in page


def test_a_new_account_begins_with_the_method_that_fits_its_preset() -> None:
    client = rows.client_for("*")
    form = client.get(f"{rows.ACCOUNTS}add/").context["adminform"].form
    assert form["auth_method"].value() == "password"
    form = client.get(f"{rows.ACCOUNTS}add/?oauth_provider=google").context["adminform"].form
    assert form["auth_method"].value() == "xoauth2"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"password": ""}, "password"),
        ({"user": ""}, "user"),
        ({"user": " "}, "user"),
        ({"host": ""}, "host"),
        ({"host": "smtp.example.com:465"}, "host"),
        ({"port": "0"}, "port"),
        ({"security": "none"}, "security"),
        ({"auth_method": "xoauth2", "password": ""}, "oauth_token"),
        ({"auth_method": "xoauth2", "password": "", "oauth_provider": "google"}, "oauth_client_id"),
        ({"auth_method": "xoauth2", "password": "", "oauth_provider": "custom"}, "oauth_callable"),
        ({"auth_mechanism": "xoauth2"}, "auth_mechanism"),
        ({"tls_key_file": "/etc/key.pem"}, "tls_cert_file"),
        (
            {
                "auth_method": "xoauth2",
                "password": "",
                "oauth_provider": "google",
                "oauth_token": "token-over",
                "oauth_token_expires_at_0": "2020-01-01",
                "oauth_token_expires_at_1": "00:00:00",
            },
            "oauth_client_id",
        ),
    ],
)
def test_an_account_that_no_attempt_could_log_in_with_is_not_saved(changes: dict[str, str], field: str) -> None:
    form = {
        "name": "main",
        "host": "smtp.example.com",
        "port": "465",
        "auth_method": "password",
        "user": "u@example.com",
        "password": "pw-typed-2",
        "max_connections": "3",
        "max_messages_per_connection": "100",
        "max_in_flight": "4",
        "pipelining": "auto",
        "is_active": "on",
    }
    assert field in errors_of(rows.client_for("*").post(f"{rows.ACCOUNTS}add/", {**form, **changes}))
    assert not Account.objects.exists()


#: What a person may write into an account so that a worker uses what belongs to its server, not to this person.
SERVER_RESOURCES = [
    {"password": "env:DATABASE_URL"},
    {"password": "file:/etc/passwd"},
    {"tls_ca_file": "/etc/shadow", "password": "pw-typed-2"},
    {"tls_cert_file": "/etc/ssl/private/site.pem"},
    {"tls_cert_file": "/etc/c.pem", "tls_key_file": "/root/.ssh/id_rsa"},
    {"oauth_token_url": "http://127.0.0.1:9200/_shutdown", "password": "pw-typed-2"},
]


@pytest.mark.parametrize("changes", SERVER_RESOURCES)
@pytest.mark.parametrize("adding", [False, True])
def test_who_may_change_accounts_cannot_use_variables_files_and_services_of_the_server(
    changes: dict[str, str], *, adding: bool
) -> None:
    account = rows.make_account()
    before = Account.objects.values().get()
    client = rows.client_for("add_account", "change_account", "view_account")
    data = opened(client, account)
    if adding:
        data |= {"name": "other", "password": "pw-typed-2"}
    response = client.post(f"{rows.ACCOUNTS}add/" if adding else url_of(account), {**data, **changes})
    errors = errors_of(response)
    assert set(errors) == {name for name, value in changes.items() if value != "pw-typed-2"}
    assert all("use_server_resources" in str(text) for text in errors.values())
    assert list(Account.objects.values()) == [before]


@pytest.mark.parametrize("changes", SERVER_RESOURCES)
def test_who_has_the_permission_may_let_accounts_use_them(changes: dict[str, str]) -> None:
    account = rows.make_account()
    client = rows.client_for("change_account", "view_account", "use_server_resources")
    assert save(client, account, **changes).status_code == 302
    stored = Account.objects.get()
    assert {name: getattr(stored, name) for name in changes} == changes


def test_who_may_not_name_them_keeps_and_removes_what_an_operator_has_named() -> None:
    account = rows.make_account(password="env:SHOP_PASSWORD", tls_cert_file="/etc/shop.pem")
    client = rows.client_for("change_account", "view_account")
    assert "Leave the field empty to keep it" in client.get(url_of(account)).content.decode()
    assert save(client, account, display_name="Shop").status_code == 302
    assert "host" not in errors_of(save(client, account, host="mail.example.net"))
    assert Account.objects.get().password == "env:SHOP_PASSWORD"
    assert save(client, account, tls_cert_file="", password="\\env:mine", host="mail.example.net").status_code == 302
    stored = Account.objects.get()
    assert (stored.password, stored.tls_cert_file, stored.host) == ("\\env:mine", "", "mail.example.net")
