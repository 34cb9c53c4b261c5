"""Run a server, and end it when em ends, however em ends: `python -m em.models.served.keeper COMMAND …`.

em holds the other end of this process's standard input, which closes even if em is killed. The server's process group
is this process's own, so that the processes that the server started end too.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

GRACE = 10  # seconds for the server to end by itself


def main() -> None:
    """Run the command until it ends or standard input closes; then end all processes of the group."""
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)

    def wait_for_parent() -> None:
        with suppress(OSError):
            sys.stdin.buffer.read()
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        os.killpg(0, signal.SIGKILL)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=wait_for_parent, daemon=True).start()
    process.wait()
    os.killpg(0, signal.SIGKILL)  # what the server started does not outlive it


if __name__ == "__main__":
    main()
