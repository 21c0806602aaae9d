"""Credentials shared by the mail server, the token server and the accounts of the example."""

from __future__ import annotations

#: User and password (AUTH PLAIN).
PASSWORDS = {"orders@shop.example": "correct horse battery staple", "reports@shop.example": "a password of reports"}
#: User that authenticates with a token (AUTH XOAUTH2), and its client credentials for the token server.
TOKEN_USER = "newsletter@shop.example"
CLIENT_ID = "the-newsletter"
CLIENT_SECRET = "a secret of the newsletter"
