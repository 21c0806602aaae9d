"""The mail server as a process of its own; it ends when its standard input does, so it never outlives who started it.

Its first line on standard output is JSON: the ports on which it listens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import warnings
from pathlib import Path

from example_project.catcher.inbox import Inbox
from example_project.catcher.server import Handler, listen
from example_project.catcher.tokens import TokenServer


async def serve(options: argparse.Namespace) -> None:
    """Listen where the options say, tell the ports, wait for the end of standard input."""
    tokens = TokenServer(0)
    handler = Handler(Inbox(options.var / "inbox"), tokens.issued.__contains__)
    ports = {"token": tokens.start()}
    certificate = options.var / "server.pem"
    servers = []
    for name, implicit in (("tls", True), ("starttls", False)):
        port = getattr(options, name)
        if port is not None:
            server = await listen(handler, certificate, port, implicit=implicit)
            ports[name] = server.sockets[0].getsockname()[1]
            servers.append(server)
    print(json.dumps(ports), flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="catcher")
    parser.add_argument("--var", type=Path, required=True, help="folder of the certificate and the inbox")
    parser.add_argument("--tls", type=int, help="port of implicit TLS; 0: a free one; left out: none")
    parser.add_argument("--starttls", type=int, help="port of STARTTLS; 0: a free one; left out: none")
    # aiosmtpd warns of logins without TLS, once a connection: it cannot see that the listener has it.
    warnings.filterwarnings("ignore", "Requiring AUTH while not requiring TLS")
    logging.getLogger("mail.log").setLevel(logging.ERROR)
    asyncio.run(serve(parser.parse_args()))
