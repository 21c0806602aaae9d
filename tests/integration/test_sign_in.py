"""Signing in at the admin: only the answer of the sign-in that this person began in this session is accepted, once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from django.contrib import admin
from django.core import signing
from django.test import Client, override_settings
from django.urls import path

from prx_email_django.admin import sign_in
from prx_email_django.admin.accounts import AccountAdmin
from prx_email_django.limits.pauses import account_state
from prx_email_django.models import Account, AccountState
from tests.integration import admin_rows as rows
from tests.support.authorization_server import TENANT, AuthorizationServer
from tests.urls import urlpatterns as usual

pytestmark = pytest.mark.django_db(transaction=True)

CALLBACK = "http://testserver/admin/prx_email_django/account/signed-in/"

other = admin.AdminSite(name="desk")
other.register(Account, AccountAdmin)
urlpatterns = [*usual, path("desk/", other.urls)]


@pytest.fixture(params=["google", "microsoft"])
def server(request: Any, settings: Any) -> Iterator[AuthorizationServer]:
    with AuthorizationServer(request.param) as running:
        running.client.redirects = [CALLBACK]
        settings.PRX_EMAIL = {"OAUTH_SERVERS": running.settings}
        yield running


def make_account(server: AuthorizationServer, **fields: Any) -> Account:
    values = {"name": "main", "host": "127.0.0.1", "port": 9, "security": "none", "is_active": False}
    account: Account = Account.objects.create(**{**values, **server.fields(**fields)})
    return account


def begin(client: Client, account: Account, site: str = "admin") -> str:
    response = client.post(f"/{site}/prx_email_django/account/{account.pk}/sign-in/")
    assert response.status_code == 302, response.content.decode()
    return str(response["Location"])


def changed(address: str, **parameters: str) -> str:
    parts = urlsplit(address)
    return f"{parts.path}?{urlencode({**dict(parse_qsl(parts.query)), **parameters})}"


def refused(client: Client, address: str, words: str) -> str:
    response = client.get(address)
    page = response.content.decode()
    assert response.status_code == 400
    assert words in page
    assert CALLBACK in page  # the redirect URI to register
    assert not Account.objects.exclude(oauth_refresh_token="").exists()
    return page


def test_a_person_signs_in_and_the_refresh_token_is_stored_encrypted(server: AuthorizationServer) -> None:
    account = make_account(server)
    account_state(account)
    AccountState.objects.filter(account=account).update(
        refresh_token="old", access_token="old", pause_reason="invalid_grant", paused_by="worker", pause_code="token"
    )
    client = rows.client_for("change_account", "view_account")
    page = client.get(f"{rows.ACCOUNTS}{account.pk}/change/").content.decode()
    assert f"Connect with {server.kind.capitalize()}" in page
    assert CALLBACK in page
    address = begin(client, account)
    assert address.startswith(f"{server.authorization_url}?")
    response = client.get(server.approve(address), follow=True)
    assert response.redirect_chain == [(f"{rows.ACCOUNTS}{account.pk}/change/", 302)]
    assert "Connected: shop@example.com" in rows.notices(response)[0]
    account.refresh_from_db()
    assert account.oauth_refresh_token in server.refresh_tokens
    assert account.is_active
    state = AccountState.objects.get(account=account)
    assert (state.refresh_token, state.access_token, state.pause_reason) == ("", "", "")
    asked = server.authorizations[0]
    assert {"openid", "email"} <= set(asked["scope"].split())
    wanted = "https://mail.google.com/" if server.kind == "google" else "https://outlook.office.com/SMTP.Send"
    assert wanted in asked["scope"].split()
    secrets = (server.client.secret, account.oauth_refresh_token)
    assert not any(secret in response.content.decode() + address for secret in secrets)


def test_an_answer_is_accepted_once(server: AuthorizationServer) -> None:
    client, account = rows.client_for("*"), make_account(server)
    answer = server.approve(begin(client, account))
    assert client.get(answer).status_code == 302
    asked = len(server.forms)
    assert client.get(answer).status_code == 400
    assert len(server.forms) == asked


def test_a_failed_answer_cannot_be_tried_again(server: AuthorizationServer) -> None:
    client, account = rows.client_for("*"), make_account(server)
    address = begin(client, account)
    server.error = {"error": "server_error"}
    refused(client, server.approve(address), "server_error")
    server.error = {}
    refused(client, server.approve(address), "belongs to no sign-in")


def test_an_answer_counts_only_in_the_session_that_began(server: AuthorizationServer) -> None:
    account = make_account(server)
    answer = server.approve(begin(rows.client_for("*"), account))
    refused(rows.client_for("change_account", "view_account"), answer, "belongs to no sign-in")
    assert server.forms == []


def test_a_state_that_was_not_made_here_is_refused(server: AuthorizationServer) -> None:
    client, account = rows.client_for("*"), make_account(server)
    answer = server.approve(begin(client, account))
    for state in (
        "",
        "x",
        signing.dumps(["key", account.pk], salt="other"),
        signing.dumps(["key"], salt=sign_in._SALT),
    ):
        refused(client, changed(answer, state=state), "belongs to no sign-in")
    refused(client, urlsplit(answer).path, "belongs to no sign-in")


def test_a_state_of_another_account_is_refused(server: AuthorizationServer) -> None:
    client, account = rows.client_for("*"), make_account(server)
    another = make_account(server, name="another", user="other@example.com")
    answer = server.approve(begin(client, account))
    begin(client, another)
    (key, _) = signing.loads(dict(parse_qsl(urlsplit(answer).query))["state"], salt=sign_in._SALT)
    refused(client, changed(answer, state=signing.dumps([key, another.pk], salt=sign_in._SALT)), "no sign-in")


def test_a_state_ends(server: AuthorizationServer, monkeypatch: pytest.MonkeyPatch) -> None:
    client, account = rows.client_for("*"), make_account(server)
    answer = server.approve(begin(client, account))
    monkeypatch.setattr(sign_in, "MAX_AGE", -1)
    refused(client, answer, "took too long")


def test_an_answer_of_another_server_is_refused(server: AuthorizationServer) -> None:
    client, account = rows.client_for("*"), make_account(server)
    answer = server.approve(begin(client, account), iss="https://attacker.example")
    refused(client, answer, "nother authorization server")
    assert server.forms == []
    server.answer = {"iss": server.issuer}
    assert client.get(server.approve(begin(client, account))).status_code == 302


def test_a_code_of_another_provider_is_worth_nothing(server: AuthorizationServer, settings: Any) -> None:
    client, account = rows.client_for("*"), make_account(server)
    with AuthorizationServer("google") as attacker:
        stolen = dict(parse_qsl(urlsplit(attacker.approve(begin(client, account))).query))
        answer = changed(server.approve(begin(client, account)), code=stolen["code"])
        refused(client, answer, "invalid_grant")
        assert attacker.forms == []  # nothing was sent to the other server


def test_a_code_that_was_begun_by_another_is_worth_nothing(server: AuthorizationServer) -> None:
    """PKCE: a code that an attacker brings into this session fits no verifier of this session."""
    client, account = rows.client_for("*"), make_account(server)
    foreign = dict(parse_qsl(urlsplit(server.approve(begin(client, account))).query))["code"]
    answer = changed(server.approve(begin(client, account)), code=foreign)
    refused(client, answer, "invalid_grant")


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"aud": "another-client"}, "another application"),
        ({"iss": "https://attacker.example"}, "nother authorization server"),
        ({"nonce": "x"}, "another sign-in"),
        ({"exp": 1_000_000_000}, "expired"),
        ({"email": "eve@example.com", "preferred_username": "eve@example.com"}, "eve@example.com"),
        ({"email": None, "preferred_username": None}, "nobody with an address"),
    ],
)
def test_another_person_or_token_is_refused_in_words(
    server: AuthorizationServer, claims: dict[str, Any], words: str
) -> None:
    client, account = rows.client_for("*"), make_account(server)
    server.claims = claims
    refused(client, server.approve(begin(client, account)), words)


def test_a_tenant_that_is_not_the_issuer_is_refused(settings: Any) -> None:
    with AuthorizationServer("microsoft") as server:
        client, account = rows.client_for("*"), make_account(server)
        server.claims = {"tid": TENANT.replace("1", "9")}
        refused(client, server.approve(begin(client, account)), "nother authorization server")


def test_the_address_is_compared_without_case(server: AuthorizationServer) -> None:
    client, account = rows.client_for("*"), make_account(server)
    server.person = "Shop@EXAMPLE.com"
    assert client.get(server.approve(begin(client, account))).status_code == 302


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ({"error": "invalid_grant", "error_description": "AADSTS50011: no redirect"}, "Register the redirect URI"),
        ({"error": "redirect_uri_mismatch"}, "Register the redirect URI"),
        ({"error": "invalid_client", "error_description": "AADSTS7000222: expired"}, "has expired"),
        ({"error": "invalid_grant", "error_description": "AADSTS65001: no consent"}, "Consent is missing"),
    ],
)
def test_the_error_page_says_what_to_do(server: AuthorizationServer, error: dict[str, str], words: str) -> None:
    client, account = rows.client_for("*"), make_account(server)
    server.error = error
    page = refused(client, server.approve(begin(client, account)), words)
    assert "the-client-secret" not in page


def test_denied_consent_is_explained(server: AuthorizationServer) -> None:
    client, account = rows.client_for("*"), make_account(server)
    answer = server.approve(begin(client, account), error="access_denied", error_description="<script>")
    page = refused(client, answer, "Begin again and allow the access")
    assert "<script>" not in page.split("</head>")[1]


def test_no_refresh_token_is_explained(server: AuthorizationServer) -> None:
    client, account = rows.client_for("*"), make_account(server)
    server.issues_refresh_tokens = False
    refused(client, server.approve(begin(client, account)), "no refresh token")


def test_only_who_may_change_the_account_can_connect_it(server: AuthorizationServer) -> None:
    account = make_account(server)
    url = f"{rows.ACCOUNTS}{account.pk}/sign-in/"
    viewer = rows.client_for("view_account")
    assert "Connect with" not in viewer.get(f"{rows.ACCOUNTS}{account.pk}/change/").content.decode()
    assert viewer.post(url).status_code == 403
    assert rows.client_for("*").get(url).status_code == 403
    assert Client().post(url).status_code == 302  # to the login
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = rows.client_for("change_account").cookies
    assert strict.post(url).status_code == 403


def test_a_permission_that_ended_during_the_sign_in_counts(server: AuthorizationServer) -> None:
    account, client = make_account(server), rows.client_for("change_account")
    answer = server.approve(begin(client, account))
    from django.contrib.auth.models import User

    User.objects.get(username="change_account").user_permissions.clear()
    assert client.get(answer).status_code == 403
    account.refresh_from_db()
    assert account.oauth_refresh_token == ""


def test_an_account_that_changed_during_the_sign_in_is_left_alone(server: AuthorizationServer) -> None:
    client, account = rows.client_for("*"), make_account(server)
    answer = server.approve(begin(client, account))
    Account.objects.filter(pk=account.pk).update(oauth_client_id="another")
    refused(client, answer, "during the sign-in")
    assert server.forms == []


def test_the_answer_leads_to_no_other_site(server: AuthorizationServer) -> None:
    client, account = rows.client_for("*"), make_account(server)
    answer = server.approve(begin(client, account), next="https://attacker.example", redirect_uri="//attacker.example")
    assert client.get(answer)["Location"] == f"{rows.ACCOUNTS}{account.pk}/change/"


def test_an_address_for_signing_in_must_be_allowed(server: AuthorizationServer, settings: Any) -> None:
    client, account = rows.client_for("*"), make_account(server)
    settings.PRX_EMAIL = {**settings.PRX_EMAIL, "ACCOUNT_HOSTS": ["*.example.com"]}
    response = client.post(f"{rows.ACCOUNTS}{account.pk}/sign-in/")
    assert response.status_code == 400
    assert "ACCOUNT_HOSTS" in response.content.decode()


@override_settings(ROOT_URLCONF=__name__)
def test_another_admin_site_has_its_own_address(server: AuthorizationServer) -> None:
    client, account = rows.client_for("*"), make_account(server)
    callback = CALLBACK.replace("/admin/", "/desk/")
    assert callback in client.get(f"/desk/prx_email_django/account/{account.pk}/change/").content.decode()
    answer = server.approve(begin(client, account, "desk"))
    assert answer.startswith(callback)
    assert client.get(answer)["Location"] == f"/desk/prx_email_django/account/{account.pk}/change/"


def test_a_sign_in_works_with_transactions_around_each_request(
    server: AuthorizationServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.db import connection, transaction

    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    held: list[bool] = []
    server.issued = lambda token: None
    client, account = rows.client_for("*"), make_account(server)
    answer = server.approve(begin(client, account))
    real = sign_in.finish

    def finish(*args: Any) -> Any:
        held.append(transaction.get_connection().in_atomic_block)
        return real(*args)

    monkeypatch.setattr(sign_in, "finish", finish)
    assert client.get(answer).status_code == 302
    assert held == [False]
    account.refresh_from_db()
    assert account.oauth_refresh_token


def test_the_form_saves_an_account_that_waits_for_its_sign_in_inactive_only(settings: Any) -> None:
    client = rows.client_for("*")
    form = {
        "name": "google", "email": "shop@example.com", "host": "smtp.gmail.com", "port": "465", "security": "tls",
        "user": "shop@example.com", "auth_method": "xoauth2", "auth_mechanism": "auto", "oauth_provider": "google",
        "oauth_client_id": "the-client", "oauth_client_secret": "the-client-secret", "max_connections": "1",
        "max_messages_per_connection": "100", "max_in_flight": "4", "pipelining": "auto",
    }  # fmt: skip
    response = client.post(f"{rows.ACCOUNTS}add/", {**form, "is_active": "on"})
    assert "save the account inactive" in response.content.decode()
    response = client.post(f"{rows.ACCOUNTS}add/", {**form, "_continue": "1"}, follow=True)
    page = response.content.decode()
    assert "Connect with Google" in page
    assert CALLBACK in page


def form_of(server: AuthorizationServer, **fields: Any) -> dict[str, Any]:
    values = {"name": "new", "host": "127.0.0.1", "port": 9, "security": "none", "max_connections": 1}
    values |= {"max_messages_per_connection": 100, "pipelining": "auto", "auth_mechanism": "auto", "is_active": "on"}
    return {**values, **server.fields(), "_connect": "1", **fields}


def test_save_and_connect_leads_from_an_empty_form_to_a_stored_refresh_token(server: AuthorizationServer) -> None:
    client = rows.client_for("*")
    assert "Save and connect" in client.get(f"{rows.ACCOUNTS}add/").content.decode()
    response = client.post(f"{rows.ACCOUNTS}add/", form_of(server))
    assert response.status_code == 302, response.context["errors"]
    account = Account.objects.get(name="new")
    assert not account.is_active, "no message may wait for a token that nobody has"
    assert client.get(server.approve(client.get(response["Location"])["Location"])).status_code == 302
    account.refresh_from_db()
    assert account.is_active
    assert account.oauth_refresh_token in server.refresh_tokens


def test_the_redirect_of_save_and_connect_is_for_one_person_and_one_page(server: AuthorizationServer) -> None:
    client = rows.client_for("*")
    address = client.post(f"{rows.ACCOUNTS}add/", form_of(server))["Location"]
    other = rows.client_for("view_account", "change_account")
    assert other.get(address).status_code == 403
    assert client.get(address.replace("/sign-in/", "/check/")).status_code == 403
    assert client.get(address.partition("?")[0]).status_code == 403


def test_save_and_connect_keeps_an_account_that_is_connected_active(server: AuthorizationServer) -> None:
    account = make_account(server, oauth_refresh_token="old", is_active=True)
    client = rows.client_for("*")
    page = client.get(f"{rows.ACCOUNTS}{account.pk}/change/")
    initial = {name: value for name, value in page.context["adminform"].form.initial.items() if value is not None}
    response = client.post(f"{rows.ACCOUNTS}{account.pk}/change/", {**initial, "_connect": "1", "display_name": "Shop"})
    assert "/sign-in/?go=" in response["Location"]
    account.refresh_from_db()
    assert (account.is_active, account.display_name) == (True, "Shop")
