"""`python -m tests.support.chat_server`: print the port, then serve until a signal."""

from __future__ import annotations

import asyncio
import signal
import sys

from aiohttp import web

from .app import build_application
from .options import Options, parse_words


async def serve(port: int, options: Options) -> None:
    """Serve on 127.0.0.1 until SIGTERM or SIGINT."""
    # Cancel the handler of a client that disconnects; otherwise hanging requests would pile up.
    runner = web.AppRunner(build_application(options), access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, backlog=4096)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    done = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, done.set)
    await done.wait()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve(*parse_words(sys.argv[1:])))
