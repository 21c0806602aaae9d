"""The authorization servers that OAUTH_SERVERS names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prx_email_django.rules.hosts import check_token_url
from prx_email_django.rules.words import words as _

_SERVER_KEYS = frozenset({"authorization", "issuer", "device"})


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuthServer:
    """Where a person signs in at an authorization server: its addresses, and the name that it has in ID tokens."""

    authorization: str
    issuer: str
    device: str = ""


def read_oauth_servers(value: object) -> dict[str, OAuthServer]:
    """The servers by token address.

    Raises:
        ValueError: it is no such dict.
    """
    if not isinstance(value, Mapping):
        raise ValueError(_("must be a dict: token address -> addresses of the authorization server"))
    servers = {}
    for token_url, addresses in value.items():
        if not isinstance(addresses, Mapping) or not {"authorization", "issuer"} <= set(addresses) <= _SERVER_KEYS:
            raise ValueError(_('must hold dicts with the keys "authorization", "issuer" and (if it has one) "device"'))
        urls = [token_url, addresses["authorization"], *([addresses["device"]] if addresses.get("device") else [])]
        for url in urls:
            try:
                check_token_url(url if isinstance(url, str) else "")
            except ValueError:
                raise ValueError(
                    _("must hold plain addresses that begin with https:// (http:// only to loopback)")
                ) from None
        if not isinstance(addresses["issuer"], str) or not addresses["issuer"]:
            raise ValueError(_('must name each "issuer", as the ID tokens of the server do'))
        servers[str(token_url)] = OAuthServer(**{str(key): text or "" for key, text in addresses.items()})
    return servers
