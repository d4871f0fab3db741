"""
Starts the town on this machine, with a remote and a post office of its own: make example.

It shows what to type for each thing that the town can do. Ctrl-C ends all of it.
"""

import contextlib
import os
import secrets
import signal
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

TOWN = Path(__file__).resolve().parent
SHOWN = """
Sign in as Jane; her session is kept in {jar}:
  curl -s -c {jar} -d name=jane -d password=picnic {api}/api/town/login
She makes her own record, and may make no other:
  curl -s -b {jar} -H 'Content-Type: application/json' {api}/api/sheets/people/records \
-d '{{"slug": "jane", "name": "Jane Doe", "email": "jane@example.org"}}'
  curl -s -b {jar} -H 'Content-Type: application/json' {api}/api/sheets/people/records \
-d '{{"slug": "bob", "name": "Bob"}}'
She comes to an event; once that is at the remote, a letter appears here:
  curl -s -b {jar} -X POST {api}/api/town/rsvp/2026/01/open-council
What is pushed, and what waits: {api}/status
Ctrl-C ends it.
"""


class Postman(socketserver.StreamRequestHandler):
    """
    Takes letters by SMTP, and prints them.
    """

    def handle(self) -> None:
        """
        Answer one client.
        """
        self.say("220 town")
        while line := self.rfile.readline():
            verb = line[:4].upper()
            self.say({b"DATA": "354 go on", b"QUIT": "221 bye"}.get(verb, "250 town"))
            if verb == b"DATA":
                letter = iter(self.rfile.readline, b".\r\n")
                print(
                    "\n--- A letter ---", *(each.decode().rstrip() for each in letter), sep="\n", flush=True
                )
                self.say("250 taken")
            if verb == b"QUIT":
                return

    def say(self, text: str) -> None:
        """
        Send one line.
        """
        self.wfile.write(f"{text}\r\n".encode())


@contextlib.contextmanager
def post_office() -> Iterator[str]:
    """
    Run a post office for the block; returns its address.
    """
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Postman) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def main() -> int:
    """
    Run the town until Ctrl-C.
    """
    ferry = [str(Path(sys.executable).parent / "ferry"), "dev", *(sys.argv[1:] or ["--port", "0"])]
    with post_office() as smtp, TemporaryDirectory(prefix="town-") as home:
        jar = Path(home) / "jane"
        town = {"CFP_API_EXTENSIONS": "app worker", "TOWN_SECRET": secrets.token_hex(), "TOWN_SMTP": smtp}
        with subprocess.Popen(
            [*ferry, "--flower-port", "0"],
            cwd=TOWN,
            env={**os.environ, **town},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # or Ctrl-C would reach it twice
        ) as running:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: running.send_signal(signal.SIGINT))
            for line in running.stdout or ():
                print(line, end="", flush=True)
                if line.startswith("Ferry is ready: "):
                    print(SHOWN.format(api=line.split()[-1], jar=jar), flush=True)
            return running.wait()


if __name__ == "__main__":
    sys.exit(main())
