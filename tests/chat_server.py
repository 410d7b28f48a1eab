"""An OpenAI-compatible chat server on this machine that answers as a script says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BREAKS_OFF = {"never": "ends"}


class Server:
    """Gives its replies in turn, the last one for ever: (status, body) with the body as it is or as a chat message, in
    which ``{question}`` is what was asked. A function is given the question and returns such a pair."""

    def __init__(self) -> None:
        self.replies: list[tuple[int, str | dict | list] | Callable[[str], tuple[int, str | dict | list]]] = []
        self.requests: list[dict] = []
        self.retry_after = ""
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.requests.append({"path": self.path, "key": self.headers["Authorization"], **body})
                question = body["messages"][0]["content"]
                given = server.replies.pop(0) if len(server.replies) > 1 else server.replies[0]
                status, reply = given(question) if callable(given) else given
                if isinstance(reply, str) and status == 200:
                    reply = reply.replace("{question}", question)
                    reply = {"choices": [{"message": {"role": "assistant", "content": reply}}]}
                self.send_response(status)
                if status == 429 and server.retry_after:
                    self.send_header("Retry-After", server.retry_after)
                answer = json.dumps(reply).encode()
                if reply == BREAKS_OFF:
                    self.send_header("Content-Length", str(len(answer) + 1))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format, *args) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        thread.join()
        server.http.server_close()
