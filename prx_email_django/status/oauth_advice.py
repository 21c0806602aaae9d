"""Advice for sign-ins and token servers: what OAuth errors and Microsoft's numbers (AADSTS…) mean, and what to do.

Sources: RFC 6749 §5.2, developers.google.com/identity/protocols/oauth2, learn.microsoft.com, "Microsoft Entra
authentication and authorization error codes".
"""

from __future__ import annotations

from django.utils.translation import gettext_lazy

#: Patterns in texts of ``TokenRefused``, each with advice.  The first that fits is shown.
OAUTH_ADVICE = (
    (
        "AADSTS(50011|500113|900971|50011\\d)|redirect_uri_mismatch",
        gettext_lazy(
            "Register the redirect URI that is shown here at the provider, character for character: scheme, host, "
            "port, path and final slash count."
        ),
    ),
    (
        "AADSTS(65001|65004|90094|90095|900941)|consent_required|admin_policy_enforced|org_internal",
        gettext_lazy(
            "Consent is missing or was withdrawn: sign in again and allow the access; where the organisation forbids "
            "that, its administrator must grant it."
        ),
    ),
    (
        "AADSTS(7000215|7000222)|invalid_client|deleted_client",
        gettext_lazy(
            "The provider does not accept client id and client secret: check both, and whether the secret (or the "
            "certificate) has expired."
        ),
    ),
    (
        "temporarily_unavailable|server_error|AADSTS(90033|90039|90055)|answered HTTP (429|5[0-9][0-9])",
        gettext_lazy(
            "The token server is overloaded or out of order for the moment: it is asked again when the pause ends; "
            "sign in, or check the account, again later."
        ),
    ),
    (
        "unauthorized_client",
        gettext_lazy(
            "The provider does not let this application ask in this way: for a service account an administrator of "
            "Google Workspace must grant domain-wide delegation, with this scope; else check the application’s type."
        ),
    ),
    (
        "AADSTS7000218",
        gettext_lazy(
            "Microsoft wants a client secret: enter it in the account, or switch on “Allow public client flows” in the "
            "registration of the application."
        ),
    ),
    (
        "AADSTS700025",
        gettext_lazy("The application is registered as a public client: clear the client secret of the account."),
    ),
    (
        "AADSTS(50173|700082|70008|70043|50078|50076|50079|50132|50133)|invalid_grant|invalid_rapt|interaction_required",
        gettext_lazy(
            "The refresh token is no longer valid (revoked, expired, or the password was changed): sign in again, "
            "with the button of the account’s page or with outbox_authorize."
        ),
    ),
    (
        "refused: invalid_scope|AADSTS70011",
        gettext_lazy(
            "The provider does not give this scope. Google gives none for mail in the device flow: leave out --device. "
            "Else check the scope of the account."
        ),
    ),
    (
        "cancelled, or consent was denied|access_denied",
        gettext_lazy(
            "Begin again and allow the access. If the provider did not ask, this mailbox may not be a test user of the "
            "application, or an administrator has blocked it."
        ),
    ),
    (
        "belongs to no sign-in|belongs to another sign-in|expired before anybody|sent no code|sign-in took too long",
        gettext_lazy("Nothing was changed. Begin the sign-in again, and finish it in the same browser."),
    ),
    (
        "during the sign-in",
        gettext_lazy("Nothing was changed. Begin the sign-in again with the account as it is now."),
    ),
    (
        "another authorization server|for another application",
        gettext_lazy(
            "Nothing was changed. Check the token address of the account (and OAUTH_SERVERS): an answer from another "
            "server may be an attack."
        ),
    ),
    (
        "signed in was|does not say who signed in",
        gettext_lazy(
            "Nothing was changed. Sign out at the provider (or use a private window), and sign in as the user of the "
            "account. A shared mailbox has no sign-in of its own: use the permission of an application."
        ),
    ),
    (
        "ID token has expired",
        gettext_lazy("Set the clock of this machine, then sign in again."),
    ),
    (
        "issued no refresh token",
        gettext_lazy(
            "Remove the access of this application in the person’s account at the provider, then sign in again; "
            "Microsoft needs the scope offline_access."
        ),
    ),
    (
        "no device flow|no usable device code",
        gettext_lazy("Leave out --device; with --no-browser the address is printed and can be opened anywhere."),
    ),
    (
        "declared in the settings",
        gettext_lazy(
            "Declare its refresh token in the settings, as a reference (env:NAME or file:PATH), or make the account in "
            "the admin instead."
        ),
    ),
    (
        "does not log in with a token|no provider at which",
        gettext_lazy("Choose a token as the authentication of the account, and Google or Microsoft as its provider."),
    ),
    (
        "OAUTH_SERVERS",
        gettext_lazy("Add the token address with the address for signing in to the setting OAUTH_SERVERS."),
    ),
    (
        "lacks what the provider .* needs",
        gettext_lazy("Fill in client id and client secret of the account, then sign in or enter a refresh token."),
    ),
    (
        r"there is no module (google|msal)",
        gettext_lazy(
            "Install the extra on every machine that sends: pip install prx_email_django[google], or [microsoft]."
        ),
    ),
    (
        r"service account|certificate of the application|private key",
        gettext_lazy("Check the key that the client secret of the account holds, and what the documentation asks for."),
    ),
)
