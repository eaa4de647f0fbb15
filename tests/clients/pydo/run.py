#!/usr/bin/env python3
"""Acceptance of Cistern with pydo, DigitalOcean's Python library, over TLS and otherwise as it comes.

Reads CISTERN_URL (https), CISTERN_CA (the PEM file of the server's certificate authority), CISTERN_TOKEN,
CISTERN_IMAGE_URL (a small disk that the server may fetch) and CISTERN_BAD_IMAGE_URL (no disk). Prints one line a check,
`ok NAME` or `FAIL NAME: expected … got …`, then `N passed, N failed`; the exit code is 1 on any failure and 2 when it
could not start. Run it with the interpreter that ../install.sh pydo makes.
"""

import base64
import hashlib
import os
import re
import secrets
import sys
import time

SETTINGS = ("CISTERN_URL", "CISTERN_CA", "CISTERN_TOKEN", "CISTERN_IMAGE_URL", "CISTERN_BAD_IMAGE_URL")
missing = [name for name in SETTINGS if not os.environ.get(name)]
if missing or not os.environ["CISTERN_URL"].startswith("https://"):
    print("pydo/run.py: set", ", ".join(missing) or "CISTERN_URL to an https address", file=sys.stderr)
    sys.exit(2)
URL, CA, TOKEN, IMAGE_URL, BAD_IMAGE_URL = (os.environ[name] for name in SETTINGS)
os.environ["REQUESTS_CA_BUNDLE"] = CA

from azure.core.exceptions import HttpResponseError, ServiceRequestError  # noqa: E402
from pydo import Client  # noqa: E402

RUN = secrets.token_hex(4)
UUID = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
SECONDS_Z = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"
UNKNOWN = 999999999
client = Client(token=TOKEN, endpoint=URL)
counts = {"ok": 0, "FAIL": 0}


def ok(name):
    counts["ok"] += 1
    print("ok", name)


def equal(name, expected, got):
    if expected == got:
        return ok(name)
    counts["FAIL"] += 1
    print(f"FAIL {name}: expected `{expected}` got `{got}`".replace("\n", " ")[:600])


def like(name, pattern, got):
    if isinstance(got, str) and re.search(pattern, got):
        return ok(name)
    counts["FAIL"] += 1
    print(f"FAIL {name}: expected a match of `{pattern}` got `{got}`".replace("\n", " ")[:600])


def call(operation, *arguments, **options):
    """(status, body, headers) of an operation, whether pydo raises for that status or not."""

    def whole(response, body, _headers):
        answer = response.http_response
        return answer.status_code, body, answer.headers

    try:
        return operation(*arguments, cls=whole, **options)
    except HttpResponseError as error:
        try:
            body = error.response.json()
        except ValueError:
            body = {"message": error.response.text()}
        return error.status_code, body, error.response.headers


def runs(name, status, operation, *arguments, **options):
    """The body of an operation that must answer `status`; an empty dict where it does not."""
    got, body, _ = call(operation, *arguments, **options)
    if got == status:
        ok(name)
        return body if body is not None else {}
    equal(name, status, f"{got} {body}")
    return {}


def refused(name, status, pattern, operation, *arguments, **options):
    """A refusal with DigitalOcean's error body: an id for its status, a message, one request id."""
    got, body, headers = call(operation, *arguments, **options)
    ids = {401: "unauthorized", 404: "not_found", 422: "unprocessable_entity"}
    if got != status:
        return equal(name, status, f"{got} {body}")
    if body.get("id") != ids[status]:
        return equal(name, ids[status], body)
    if body.get("request_id") != headers.get("x-request-id"):
        return equal(name, headers.get("x-request-id"), body)
    return like(name, pattern, body.get("message"))


def pages(operation, key, **options):
    """Every item of a list, page by page as far as `links.pages.next` reaches, and the totals that the pages gave."""
    items, totals, page = [], set(), 1
    while page < 100:
        body = operation(per_page=200, page=page, **options)
        items += body[key]
        totals.add(body["meta"]["total"])
        if "next" not in (body["links"].get("pages") or {}):
            break
        page += 1
    return items, totals


def check_tls():
    """Trust comes from CISTERN_CA alone: without it the same call must fail on the certificate."""
    os.environ["REQUESTS_CA_BUNDLE"] = ""
    try:
        Client(token=TOKEN, endpoint=URL, retry_total=0).account.get()
        equal("tls-needs-the-ca", "a certificate error", "an answer")
    except ServiceRequestError as error:
        like("tls-needs-the-ca", "(?i)certificate", str(error))
    finally:
        os.environ["REQUESTS_CA_BUNDLE"] = CA


def check_account():
    account = runs("account", 200, client.account.get).get("account", {})
    like("account-email", r"^[^@ ]+@[^@ ]+$", account.get("email"))
    equal("account-status", "active", account.get("status"))
    equal("account-required", True, {"droplet_limit", "floating_ip_limit", "uuid", "email_verified", "status_message"} <= set(account))
    _, _, headers = call(client.account.get)
    limits = [int(headers[f"ratelimit-{name}"]) for name in ("limit", "remaining", "reset")]
    equal("ratelimit-headers", True, limits[0] > limits[1] >= 0 and abs(limits[2] - time.time()) < 7200)
    like("request-id", UUID, headers.get("x-request-id"))
    _, _, after = call(client.account.get)
    equal("ratelimit-counts-down", True, int(after["ratelimit-remaining"]) < limits[1])
    stranger = Client(token="dop_v1_" + "0" * 64, endpoint=URL)
    refused("wrong-token", 401, "^Unable to authenticate you", stranger.account.get)


def check_places():
    regions, totals = pages(client.regions.list, "regions")
    equal("regions-total", {len(regions)}, totals)
    nyc3 = next((r for r in regions if r["slug"] == "nyc3"), {})
    equal("region-nyc3", ("New York 3", True), (nyc3.get("name"), nyc3.get("available")))
    equal("region-fields", True, {"features", "sizes"} <= set(nyc3))
    sizes, totals = pages(client.sizes.list, "sizes")
    equal("sizes-total", {len(sizes)}, totals)
    small = next((s for s in sizes if s["slug"] == "s-1vcpu-1gb"), {})
    equal("size-s-1vcpu-1gb", (1024, 1, 25, 6), tuple(small.get(k) for k in ("memory", "vcpus", "disk", "price_monthly")))
    equal("size-fields", True, {"transfer", "price_hourly", "regions", "available", "description"} <= set(small))


def new_key():
    """A public key line and its MD5 fingerprint. The key is random bytes: nobody will sign with it."""
    blob = b"".join(len(part).to_bytes(4, "big") + part for part in (b"ssh-ed25519", secrets.token_bytes(32)))
    digest = hashlib.md5(blob, usedforsecurity=False).hexdigest()
    return "ssh-ed25519 " + base64.b64encode(blob).decode() + f" pydo@{RUN}", ":".join(re.findall("..", digest))


def check_keys():
    line, fingerprint = new_key()
    key = runs("key-create", 201, client.ssh_keys.create, {"name": f"pydo-{RUN}", "public_key": line}).get("ssh_key", {})
    equal("key-fields", (f"pydo-{RUN}", line, fingerprint), (key.get("name"), key.get("public_key"), key.get("fingerprint")))
    for name, identifier in (("id", key.get("id")), ("fingerprint", fingerprint)):
        body = runs(f"key-get-by-{name}", 200, client.ssh_keys.get, identifier)
        equal(f"key-get-by-{name}-same", key, body.get("ssh_key"))
    body = runs("key-update", 200, client.ssh_keys.update, fingerprint, {"name": f"renamed-{RUN}"})
    equal("key-renamed", {**key, "name": f"renamed-{RUN}"}, body.get("ssh_key"))
    refused("key-twice", 422, "already", client.ssh_keys.create, {"name": "again", "public_key": line})
    refused("key-nonsense", 422, "(?i)key", client.ssh_keys.create, {"name": "bad", "public_key": "nonsense"})
    check_keys_paging()
    runs("key-delete", 204, client.ssh_keys.delete, key.get("id"))
    refused("key-gone", 404, "could not be found", client.ssh_keys.get, key.get("id"))
    refused("key-delete-again", 404, "could not be found", client.ssh_keys.delete, fingerprint)


def check_keys_paging():
    made = {}
    for n in range(205):
        body = client.ssh_keys.create({"name": f"page-{RUN}-{n:03}", "public_key": new_key()[0]})
        made[body["ssh_key"]["id"]] = body["ssh_key"]["name"]
    keys, totals = pages(client.ssh_keys.list, "ssh_keys")
    equal("keys-total", {len(keys)}, totals)
    equal("keys-each-once", len(keys), len({k["id"] for k in keys}))
    equal("keys-all-listed", made, {k["id"]: k["name"] for k in keys if k["id"] in made})
    body = client.ssh_keys.list()  # pydo's own default: 20 a page
    equal("keys-default-page", 20, len(body["ssh_keys"]))
    like("keys-next-link", f"^{re.escape(URL.rstrip('/'))}/v2/account/keys\\?(.*&)?page=2(&|$)", body["links"]["pages"].get("next"))
    for identifier in made:
        client.ssh_keys.delete(identifier)
    left, _ = pages(client.ssh_keys.list, "ssh_keys")
    equal("keys-deleted", set(), {k["id"] for k in left} & set(made))


def check_projects():
    default = runs("project-default", 200, client.projects.get_default).get("project", {})
    body = {"name": f"pydo-{RUN}", "purpose": "Just trying out DigitalOcean", "description": "one", "environment": "Production"}
    project = runs("project-create", 201, client.projects.create, body).get("project", {})
    equal("project-fields", body, {k: project.get(k) for k in body})
    like("project-id", UUID, project.get("id"))
    full = {"name": f"full-{RUN}", "purpose": "anything", "description": "two", "environment": "Staging", "is_default": False}
    put = runs("project-put", 200, client.projects.update, project.get("id"), full).get("project", {})
    equal("project-put-fields", {**full, "purpose": "Other: anything"}, {k: put.get(k) for k in full})
    patched = runs("project-patch", 200, client.projects.patch, project.get("id"), {"description": "three"}).get("project", {})
    equal("project-patch-fields", ("three", f"full-{RUN}"), (patched.get("description"), patched.get("name")))
    old = default.get("description")
    patched = runs("project-patch-default", 200, client.projects.patch_default, {"description": f"by {RUN}"}).get("project", {})
    equal("project-patch-default-id", (default.get("id"), f"by {RUN}"), (patched.get("id"), patched.get("description")))
    client.projects.patch_default({"description": old or ""})
    projects, totals = pages(client.projects.list, "projects")
    equal("projects-total", {len(projects)}, totals)
    equal("projects-one-default", 1, sum(p["is_default"] for p in projects))
    resources = runs("project-resources", 200, client.projects.list_resources, project.get("id"))
    equal("project-resources-empty", ([], 0), (resources.get("resources"), resources.get("meta", {}).get("total")))
    runs("project-default-resources", 200, client.projects.list_resources_default)
    keys = ("name", "purpose", "description", "environment")
    same = {**{k: default.get(k) for k in keys}, "description": f"put by {RUN}", "is_default": True}
    put = runs("project-put-default", 200, client.projects.update_default, same).get("project", {})
    equal("project-put-default-fields", (default.get("id"), f"put by {RUN}"), (put.get("id"), put.get("description")))
    client.projects.patch_default({"description": old or ""})
    urn = f"do:droplet:{UNKNOWN}"
    assigned = runs("project-assign", 200, client.projects.assign_resources, project.get("id"), {"resources": [urn]})
    equal("project-assign-unknown", [(urn, "not_found")], [(r["urn"], r["status"]) for r in assigned.get("resources", [])])
    assigned = runs("project-assign-default", 200, client.projects.assign_resources_default, {"resources": [urn]})
    equal("project-assign-default-unknown", [(urn, "not_found")], [(r["urn"], r["status"]) for r in assigned.get("resources", [])])
    refused("project-without-name", 422, "(?i)name", client.projects.create, {"purpose": "x"})
    runs("project-delete", 204, client.projects.delete, project.get("id"))
    refused("project-gone", 404, "could not be found", client.projects.get, project.get("id"))


def settled(identifier):
    """The image once it is no longer being made; after two minutes, as it is."""
    deadline = time.monotonic() + 120
    while True:
        image = client.images.get(identifier)["image"]
        if image["status"] not in ("NEW", "pending") or time.monotonic() > deadline:
            return image
        time.sleep(0.2)


def check_images():
    tag = f"pydo-{RUN}"
    body = {"name": f"pydo-{RUN}", "url": IMAGE_URL, "region": "nyc1", "distribution": "Ubuntu", "description": "d", "tags": [tag]}
    image = runs("image-create", 202, client.images.create_custom, body).get("image")
    if not image:
        return
    identifier = image["id"]
    equal("image-create-fields", ("custom", "Ubuntu", False, None, [tag]),
          tuple(image.get(k) for k in ("type", "distribution", "public", "slug", "tags")))
    like("image-created-at", SECONDS_Z, image.get("created_at"))
    image = settled(identifier)
    equal("image-available", ("available", ["nyc1"]), (image["status"], image["regions"]))
    equal("image-no-error", "", image.get("error_message") or "")
    equal("image-sizes", True, image["size_gigabytes"] > 0 and image["min_disk_size"] >= 1)
    check_image_actions(identifier)
    images, totals = pages(client.images.list, "images", private=True)
    equal("images-private-total", {len(images)}, totals)
    equal("images-private", (True, False), (identifier in [i["id"] for i in images], any(i["public"] for i in images)))
    images, _ = pages(client.images.list, "images", tag_name=tag)
    equal("images-by-tag", [identifier], [i["id"] for i in images])
    for kind in ("application", "distribution"):
        images, _ = pages(client.images.list, "images", type=kind)
        equal(f"images-{kind}", False, identifier in [i["id"] for i in images])
    put = runs("image-update", 200, client.images.update, identifier, {"name": f"renamed-{RUN}", "distribution": "CentOS"})
    equal("image-updated", (f"renamed-{RUN}", "CentOS", "d"), tuple(put.get("image", {}).get(k) for k in ("name", "distribution", "description")))
    check_image_tags(identifier)
    runs("image-delete", 204, client.images.delete, identifier)
    images, _ = pages(client.images.list, "images")
    equal("image-deleted", False, identifier in [i["id"] for i in images])


def check_image_actions(identifier):
    body = runs("image-actions", 200, client.image_actions.list, identifier)
    equal("image-actions-total", len(body.get("actions", [])), body.get("meta", {}).get("total"))
    action = (body.get("actions") or [{}])[0]
    equal("image-action-fields", ("completed", identifier, "image", "nyc1"),
          tuple(action.get(k) for k in ("status", "resource_id", "resource_type", "region_slug")))
    equal("image-action-region", "nyc1", (action.get("region") or {}).get("slug"))
    like("image-action-completed-at", SECONDS_Z, action.get("completed_at"))
    for name, operation, arguments in (("image-action-get", client.image_actions.get, (identifier, action.get("id"))),
                                       ("action-get", client.actions.get, (action.get("id"),))):
        equal(f"{name}-same", action, runs(name, 200, operation, *arguments).get("action"))
    actions, totals = pages(client.actions.list, "actions")
    equal("actions-total", {len(actions)}, totals)
    equal("actions-listed", 1, sum(a["id"] == action.get("id") for a in actions))
    body = runs("image-transfer", 201, client.image_actions.post, identifier, {"type": "transfer", "region": "lon1"})
    moved = body.get("action") or {}
    equal("image-transfer-fields", ("transfer", "completed", identifier, "lon1"),
          tuple(moved.get(k) for k in ("type", "status", "resource_id", "region_slug")))
    equal("image-transfer-regions", ["nyc1", "lon1"], client.images.get(identifier)["image"]["regions"])
    refused("image-transfer-nowhere", 422, "region", client.image_actions.post, identifier, {"type": "transfer", "region": "mars1"})
    refused("image-convert", 422, "(?i)backup", client.image_actions.post, identifier, {"type": "convert"})
    refused("image-action-nonsense", 422, "(?i)type", client.image_actions.post, identifier, {"type": "fly"})
    refused("image-action-unknown", 404, "could not be found", client.image_actions.get, identifier, UNKNOWN)


def check_image_tags(identifier):
    name = f"late:{RUN}"
    equal("tag-create", name, runs("tag-create-201", 201, client.tags.create, {"name": name}).get("tag", {}).get("name"))
    resources = {"resources": [{"resource_id": str(identifier), "resource_type": "image"}]}
    runs("tag-assign", 204, client.tags.assign_resources, name, resources)
    tags, totals = pages(client.tags.list, "tags")
    equal("tags-total", {len(tags)}, totals)
    equal("tag-listed", 1, sum(tag["name"] == name for tag in tags))
    tag = runs("tag-get", 200, client.tags.get, name).get("tag", {}).get("resources", {})
    equal("tag-counts", (1, 1, 0), (tag.get("count"), tag.get("images", {}).get("count"), tag.get("droplets", {}).get("count")))
    equal("tag-on-image", True, name in client.images.get(identifier)["image"]["tags"])
    runs("tag-unassign", 204, client.tags.unassign_resources, name, resources)
    equal("tag-off-image", False, name in client.images.get(identifier)["image"]["tags"])
    runs("tag-delete", 204, client.tags.delete, name)
    refused("tag-gone", 404, "could not be found", client.tags.get, name)


def check_refusals():
    image = {"name": f"bad-{RUN}", "url": BAD_IMAGE_URL, "region": "nyc3"}
    for name, change in (("name", {"name": ""}), ("region", {"region": "mars1"}), ("url", {"url": "file:///etc/passwd"})):
        refused(f"image-bad-{name}", 422, f"(?i){name}|http", client.images.create_custom, {**image, **change})
    # The metadata service and whatever else is near the server must not be fetched from.
    status, body, _ = call(client.images.create_custom, {**image, "url": "http://169.254.169.254/latest/meta-data"})
    if status == 202:
        equal("image-from-metadata-service", "deleted", settled(body["image"]["id"])["status"])
    else:
        equal("image-from-metadata-service", 422, status)
    failed = runs("bad-image-create", 202, client.images.create_custom, image).get("image")
    if failed:
        failed = settled(failed["id"])
        equal("bad-image-deleted", "deleted", failed["status"])
        like("bad-image-reason", r"\w+ \w+ \w+", failed.get("error_message"))
    refused("image-unknown", 404, "could not be found", client.images.get, UNKNOWN)
    refused("image-update-unknown", 404, "could not be found", client.images.update, UNKNOWN, {"name": "x"})
    refused("image-delete-unknown", 404, "could not be found", client.images.delete, UNKNOWN)
    refused("action-unknown", 404, "could not be found", client.actions.get, UNKNOWN)


for check in (check_tls, check_account, check_places, check_keys, check_projects, check_images, check_refusals):
    try:
        check()
    except Exception as error:  # noqa: BLE001 - one broken answer must not hide the checks that follow
        equal(f"{check.__name__}-ran-to-its-end", "no exception", f"{type(error).__name__}: {error}")
print(f"{counts['ok']} passed, {counts['FAIL']} failed")
sys.exit(1 if counts["FAIL"] else 0)
