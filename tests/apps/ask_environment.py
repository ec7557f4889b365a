"""Asks the container's own server for its variables: the truth about what the kubelet resolved."""

import json
import sys
import urllib.error
import urllib.request


def value(name):
    try:
        with urllib.request.urlopen(f"http://web/env?name={name}", timeout=20) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        assert error.code == 404, error
        return None


found = {name: value(name) for name in sys.argv[1:]}
print(json.dumps({name: text for name, text in found.items() if text is not None}))
