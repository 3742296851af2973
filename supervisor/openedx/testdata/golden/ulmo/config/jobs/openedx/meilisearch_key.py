"""The key with which LMS and Studio use the search service.

The service derives a key from its number and the master key, so the key is
known before it exists; here the service is told of it. Plain Python: no
platform code is loaded.
"""

import json
import urllib.error
import urllib.request

import site_values

values = site_values.VALUES["meilisearch"]


def ask(method, path, body=None):
    """One request with the master key; returns the status and the answer."""
    request = urllib.request.Request(
        values["url"] + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={
            "Authorization": "Bearer " + values["master_key"],
            "Content-Type": "application/json",
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, error.read(2000).decode("utf-8", "replace")


status, answer = ask("GET", "/keys/" + values["key_uid"])
if status == 404:
    status, answer = ask(
        "POST",
        "/keys",
        {
            "uid": values["key_uid"],
            "name": "Open edX backend API key",
            "actions": ["*"],
            "indexes": [values["index_prefix"] + "*"],
            "expiresAt": None,
        },
    )
if status not in (200, 201):
    raise SystemExit("the search service answers {}: {}".format(status, answer))
if answer.get("key") != values["api_key"]:
    raise SystemExit("the search service derives another key: its master key is not this site's")
print("== the key is there", flush=True)
