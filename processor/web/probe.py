"""Asks a service on this machine how it is: the health check of a container, in which there is no curl.

    python -m processor.web.probe /readyz

Responsible for one question and an exit code: 0 if the answer is 200, else 1. Prints the answer, which the engine keeps beside
the result. It asks the port that SLOTSTREAM_HTTP__PORT names (8080), and imports nothing that takes time: it is run every few
seconds.
"""

import os
import sys
import urllib.error
import urllib.request

TIMEOUT_S = 4.0
PORT = "SLOTSTREAM_HTTP__PORT"


def ask(url: str) -> tuple[bool, str]:
    """Whether the answer is 200, and what it says."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310 (always http, see main)
            return answer.status == 200, answer.read(1000).decode(errors="replace").strip()
    except urllib.error.HTTPError as error:
        return False, error.read(1000).decode(errors="replace").strip()
    except (OSError, ValueError) as error:
        return False, f"{url} does not answer ({error}). Expected: a running service. To do: see its log, and whether {PORT} is its port"


def main(arguments: list[str]) -> int:
    path = arguments[0] if arguments else "/healthz"
    good, said = ask(f"http://127.0.0.1:{os.environ.get(PORT, '8080')}{path}")
    sys.stdout.write(f"{said}\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
