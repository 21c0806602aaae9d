"""The mail server as a separate process.  It ends when its standard input is closed, and so with its parent process.

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

from example_project.catcher.behaviour import Behaviour
from example_project.catcher.inbox import Inbox
from example_project.catcher.mode import ModeFile
from example_project.catcher.server import Handler, listen, listen_in_clear_text
from example_project.catcher.tokens import TokenServer


async def serve(options: argparse.Namespace) -> None:
    """Listen on the ports of the options, print all ports, wait for the end of standard input."""
    tokens = TokenServer(0)
    behaviour = Behaviour(ModeFile(options.var))
    handler = Handler(Inbox(options.var / "inbox"), tokens.issued.__contains__, behaviour)
    ports = {"token": tokens.start()}
    certificate = options.var / "server.pem"
    servers = []
    for name, implicit in (("tls", True), ("starttls", False)):
        port = getattr(options, name)
        if port is not None:
            server = await listen(handler, certificate, port, implicit=implicit)
            ports[name] = server.sockets[0].getsockname()[1]
            servers.append(server)
    if options.clear is not None:
        servers.append(await listen_in_clear_text(handler, options.clear))
        ports["clear"] = servers[-1].sockets[0].getsockname()[1]
    print(json.dumps(ports), flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="catcher")
    parser.add_argument("--var", type=Path, required=True, help="folder of the certificate and the inbox")
    parser.add_argument("--tls", type=int, help="port with implicit TLS; 0: any free port; default: none")
    parser.add_argument("--starttls", type=int, help="port with STARTTLS; 0: any free port; default: none")
    parser.add_argument("--clear", type=int, help="port without TLS and login; 0: any free port; default: none")
    # aiosmtpd warns about authentication without TLS on each connection: it does not know that the socket uses TLS.
    warnings.filterwarnings("ignore", "Requiring AUTH while not requiring TLS")
    logging.getLogger("mail.log").setLevel(logging.ERROR)
    asyncio.run(serve(parser.parse_args()))
