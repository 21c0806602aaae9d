"""OAuth access tokens: asks a token server, or a function of the host project, for one token.

How a token is refreshed, from the start:

1. ``worker.token_keeper.TokenKeeper`` needs a token for a connection; ``limits.token_refresh.access_token`` finds no
   fresh one.
2. The lease that lets one worker refresh at a time, and the storing of the new token: ``limits.token_refresh``.
3. ``token_request`` turns the account into a ``TokenRequest`` (defaults of Google and Microsoft).
4. ``fetch.TokenFetch`` asks ``token_server`` or ``callables`` in a thread of its own, with a time limit.
5. The result is a ``Token`` or the exception ``TokenRefused`` (``tokens``).

Nothing here uses the database or stores anything.  No error repeats the text of a server or of an exception, since it
may hold a secret.
"""
