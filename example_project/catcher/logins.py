"""Who may log in: the mail server, the token server and the accounts of the example agree on this."""

from __future__ import annotations

#: User and password (AUTH PLAIN).
PASSWORDS = {"orders@shop.example": "correct horse battery staple", "reports@shop.example": "a password of reports"}
#: User that logs in with a token (AUTH XOAUTH2), and what its token costs at the token server.
TOKEN_USER = "newsletter@shop.example"
CLIENT_ID = "the-newsletter"
CLIENT_SECRET = "a secret of the newsletter"
