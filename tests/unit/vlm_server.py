"""A server that speaks OpenAI's chat protocol as a script tells it, and remembers what it was asked.

python vlm_server.py runs nothing; test_judge_vlm.py and vlm_process.py import it.
"""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GOOD = """**Image 1** has everything.
For Image 2: the snow is missing.

Image 1: Composition Quality: {}/10, Image Quality: {}/10
Image 2: Composition Quality: {}/10, Image Quality: {}/10"""


def good(*scores):
    """An answer with scores, in the order in which they stand in it."""
    return GOOD.format(*(scores or (8, 9, 5.5, 9)))


class Reply:
    """What to send: a chat answer, or whatever `status`, `body` and `headers` say; `hang` waits until the end."""

    def __init__(self, text="", finish="stop", *, status=200, body=None, headers=(), hang=False):
        self.status, self.headers, self.hang = status, dict(headers), hang
        message = {"role": "assistant", "content": text}
        self.body = body if body is not None else {
            "id": "answer", "object": "chat.completion", "created": 0, "model": "eyes",
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": {"prompt_tokens": 500, "completion_tokens": 60, "total_tokens": 560},
        }  # fmt: skip


def failure(status, message="no", code=None, headers=()):
    """An error as OpenAI words it."""
    return Reply(status=status, body={"error": {"message": message, "code": code, "type": "error"}}, headers=headers)


class VlmServer(ThreadingHTTPServer):
    """`script(number, asked)` gives the Reply to request `number`, counted from 0."""

    daemon_threads = True

    def __init__(self, script):
        self.script, self.asked, self.released = script, [], threading.Event()
        self.counting = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.released.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: VlmServer

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text, *pictures = asked["messages"][0]["content"]
        asked["text"] = text["text"]
        asked["pictures"] = [base64.b64decode(one["image_url"]["url"].partition("base64,")[2]) for one in pictures]
        asked["path"], asked["key"] = self.path, self.headers["Authorization"]
        with self.server.counting:
            number = len(self.server.asked)
            self.server.asked.append(asked)
        reply = self.server.script(number, asked)
        if reply.hang:
            self.server.released.wait(60)
            return
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **reply.headers}
        self.send_response(reply.status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass
