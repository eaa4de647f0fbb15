#!/usr/bin/env python3
"""Acceptance of Cistern's uploads with tuspy, the tus project's own Python client, as it comes.

Reads CISTERN_URL, CISTERN_TOKEN and CISTERN_IMAGE_URL (a small disk, fetched here and uploaded from here). Prints one
line a check, `ok NAME` or `FAIL NAME: expected … got …`, then `N passed, N failed`; the exit code is 1 on any failure
and 2 when it could not start. Run it with the interpreter that ../install.sh tus makes.
"""

import base64
import hashlib
import os
import secrets
import sys
import tempfile
import threading
import time

import requests
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError
from tusclient.storage.filestorage import FileStorage

SETTINGS = ("CISTERN_URL", "CISTERN_TOKEN", "CISTERN_IMAGE_URL")
missing = [name for name in SETTINGS if not os.environ.get(name)]
if missing:
    print("tus/run.py: set", ", ".join(missing), file=sys.stderr)
    sys.exit(2)
URL, TOKEN, IMAGE_URL = (os.environ[name] for name in SETTINGS)
RUN = secrets.token_hex(4)
MIB = 1 << 20
TIMEOUT = 120
AUTH = {"Authorization": f"Bearer {TOKEN}"}
TUS = {**AUTH, "Tus-Resumable": "1.0.0"}
client = TusClient(f"{URL}/v2/uploads", headers=AUTH)
counts = {"ok": 0, "FAIL": 0}
lock = threading.Lock()


def equal(name, expected, got):
    with lock:
        if expected == got:
            counts["ok"] += 1
            print("ok", name)
            return
        counts["FAIL"] += 1
        print(f"FAIL {name}: expected `{expected}` got `{got}`".replace("\n", " ")[:600])


def api(method, path, **options):
    return requests.request(method, URL + path, headers=AUTH, timeout=TIMEOUT, **options)


def imported(name, location):
    """Makes an image of an upload and waits for its end; the finished image, with its bytes' SHA-256 as raw."""
    body = {"name": name, "region": "nyc3", "upload": location.rsplit("/", 1)[1]}
    answer = api("POST", "/v2/images", json=body)
    equal(f"{name}-202", 202, answer.status_code)
    number = answer.json()["image"]["id"]
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        image = api("GET", f"/v2/images/{number}").json()["image"]
        if image["status"] not in ("NEW", "new", "pending"):
            break
        time.sleep(0.1)
    equal(f"{name}-available", "available", image["status"])
    data = api("GET", f"/v2/images/{number}/download?format=raw").content
    api("DELETE", f"/v2/images/{number}")
    return hashlib.sha256(data).hexdigest()


def status_of(call):
    try:
        call()
    except TusCommunicationError as error:
        return error.status_code
    return "no error"


def check_whole(path, digest):
    """In one request, in pieces with a checksum each, and with and without metadata."""
    whole = client.uploader(path)
    whole.upload()
    equal("one-request", digest, imported(f"tus-whole-{RUN}", whole.url))
    pieces = client.uploader(
        path, chunk_size=5 * MIB + 1, metadata={"filename": "dïsk.raw", "kind": ""}, upload_checksum=True
    )
    pieces.upload()
    # A header loses the space at its end, which stood for the empty value.
    head = requests.head(pieces.url, headers=TUS, timeout=TIMEOUT)
    encoded = base64.b64encode("dïsk.raw".encode()).decode()
    equal("metadata", f"filename {encoded},kind", head.headers.get("Upload-Metadata"))
    equal("length", str(os.path.getsize(path)), head.headers.get("Upload-Length"))
    equal("not-cached", "no-store", head.headers.get("Cache-Control"))
    equal("pieces-with-checksums", digest, imported(f"tus-pieces-{RUN}", pieces.url))


def check_resume(path, digest):
    """A client that ended half-way, and another that knows the URL only from its store."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"chunk_size": 4 * MIB, "store_url": True, "url_storage": FileStorage(f"{folder}/urls")}
        first = client.uploader(path, **options)
        first.upload_chunk()
        first.upload_chunk()
        second = client.uploader(path, **options)
        equal("resumed-url", first.url, second.url)
        equal("resumed-offset", 8 * MIB, second.offset)
        # The first one is behind now.
        second.upload_chunk()
        equal("stale-offset", 409, status_of(first.upload_chunk))
        equal("offset-is-kept", 12 * MIB, second.get_offset())
        second.upload()
        equal("resumed", digest, imported(f"tus-resumed-{RUN}", second.url))


def check_cut(path, digest):
    """A connection that ends inside a request: what came is kept, and the rest is sent from there."""
    upload = client.uploader(path)
    upload.set_url(upload.create_url())

    def half():
        with open(path, "rb") as file:
            yield file.read(9 * MIB)
        raise ConnectionAbortedError("the cable was pulled")

    headers = {**TUS, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    try:
        requests.patch(upload.url, headers=headers, data=half(), timeout=TIMEOUT)
        equal("cut", "an error", "an answer")
    except (requests.RequestException, ConnectionAbortedError):
        pass
    deadline = time.monotonic() + TIMEOUT
    # The server notices the end a moment after us; until then the upload may be locked.
    while upload.get_offset() == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    upload.offset = upload.get_offset()
    equal("cut-kept-something", True, 0 < upload.offset <= 9 * MIB)
    while time.monotonic() < deadline:
        try:
            upload.upload()
            break
        except TusCommunicationError as error:
            if error.status_code != 423:
                raise
            time.sleep(0.05)
            upload.offset = upload.get_offset()
    equal("cut-and-resumed", digest, imported(f"tus-cut-{RUN}", upload.url))


def check_several(path, digest):
    """Four clients at once."""
    found = [None] * 4

    def one(number):
        upload = client.uploader(path, chunk_size=(number + 1) * 3 * MIB)
        upload.upload()
        found[number] = imported(f"tus-several-{number}-{RUN}", upload.url)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    equal("several-at-once", [digest] * 4, found)


def check_end(path):
    """Termination, strangers and what the server says of itself."""
    upload = client.uploader(path, chunk_size=MIB)
    upload.upload_chunk()
    stranger = TusClient(f"{URL}/v2/uploads")
    equal("no-token", 401, status_of(lambda: stranger.uploader(path).upload()))
    equal("terminated", 204, requests.delete(upload.url, headers=TUS, timeout=TIMEOUT).status_code)
    equal("gone", 404, status_of(upload.get_offset))
    equal("gone-for-writing", 404, status_of(upload.upload_chunk))
    options = requests.options(f"{URL}/v2/uploads", timeout=TIMEOUT)
    equal("options", (204, "1.0.0"), (options.status_code, options.headers.get("Tus-Version")))
    offered = set(options.headers.get("Tus-Extension", "").split(","))
    equal("extensions", set(), {"creation", "expiration", "checksum", "termination"} - offered)


def main():
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/disk.raw"
        disk = requests.get(IMAGE_URL, timeout=TIMEOUT).content
        with open(path, "wb") as file:
            file.write(disk)
        digest = hashlib.sha256(disk).hexdigest()
        checks = (
            lambda: check_whole(path, digest),
            lambda: check_resume(path, digest),
            lambda: check_cut(path, digest),
            lambda: check_several(path, digest),
            lambda: check_end(path),
        )
        for number, check in enumerate(checks):
            try:
                check()
            except Exception as error:  # noqa: BLE001 - one broken answer must not hide the checks that follow
                equal(f"check-{number}-ran-to-its-end", "no exception", f"{type(error).__name__}: {error}")
    print(f"{counts['ok']} passed, {counts['FAIL']} failed")
    return 1 if counts["FAIL"] else 0


sys.exit(main())
