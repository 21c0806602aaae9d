"""Access tokens, from a token server or from the host's own function.

Network side: no database, no lock, nothing stored; the caller keeps what comes back, the new refresh token too.
No text of a server or of a function is repeated in an error: it may hold a secret.
"""
