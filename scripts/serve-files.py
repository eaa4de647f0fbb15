#!/usr/bin/env python3
"""A small http file server on loopback, for the demo and the tests.

    serve-files.py DIR [PORT]

Prints `serving DIR on http://127.0.0.1:PORT/` once it listens (without PORT, or with 0, the system chooses one) and
serves the files below DIR until it is stopped. Unlike `python3 -m http.server` it answers Range requests (RFC 9110
section 14: one range; If-Range by ETag), sends ETag and Last-Modified, and never lists a folder.
"""

import os
import re
import signal
import sys
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

BLOCK = 1 << 20


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root = "."

    def do_GET(self):
        self.answer(with_body=True)

    def do_HEAD(self):
        self.answer(with_body=False)

    def answer(self, with_body):
        path = self.file_path()
        if path is None:
            self.refuse(404)
            return
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            etag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
            window = self.window(status.st_size, etag)
            if window is None:
                self.refuse(416, {"Content-Range": f"bytes */{status.st_size}"})
                return
            start, end, partial = window
            self.send_response(206 if partial else 200)
            if partial:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{status.st_size}")
            self.send_header("Content-Length", str(end - start))
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", etag)
            self.send_header("Last-Modified", formatdate(status.st_mtime, usegmt=True))
            self.end_headers()
            if with_body:
                self.send_file(file, start, end)

    def send_file(self, file, start, end):
        """Sends by sendfile(2), so that the server costs the benchmark next to nothing."""
        self.wfile.flush()
        while start < end:
            sent = os.sendfile(self.connection.fileno(), file.fileno(), start, min(BLOCK, end - start))
            if sent == 0:  # the file became shorter: the client must see a cut
                self.close_connection = True
                return
            start += sent

    def file_path(self):
        """The file that the URL names, or None: nothing outside the folder, through a link either, and no folder."""
        name = unquote(urlsplit(self.path).path).lstrip("/")
        if "\0" in name:
            return None
        path = os.path.realpath(os.path.join(self.root, name))
        inside = path.startswith(self.root + os.sep)
        return path if inside and os.path.isfile(path) else None

    def window(self, size, etag):
        """(start, end, is it a part) of what is asked for; None when it lies outside the file."""
        header = self.headers.get("Range", "")
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", header.strip())
        if not found or found.groups() == ("", "") or self.headers.get("If-Range", etag) != etag:
            return 0, size, False
        first, last = found.groups()
        if first == "":
            start, end = max(0, size - int(last)), size
            return (start, end, True) if int(last) > 0 and size > 0 else None
        start = int(first)
        end = min(size, int(last) + 1) if last else size
        return (start, end, True) if start < end else None

    def refuse(self, code, headers=None):
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_arguments):
        """A client that goes away is no error here."""


def main():
    if len(sys.argv) not in (2, 3) or sys.argv[1].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    root = os.path.realpath(sys.argv[1])
    if not os.path.isdir(root):
        print(f"serve-files.py: `{sys.argv[1]}` is not a folder", file=sys.stderr)
        return 1
    Handler.root = root
    server = Server(("127.0.0.1", int(sys.argv[2]) if len(sys.argv) == 3 else 0), Handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"serving {root} on http://127.0.0.1:{server.server_port}/", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
