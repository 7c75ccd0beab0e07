"""A program that knows nothing of flowctl: one JSON line in, one out. null drops the event, a list makes several of it."""

import json
import sys

for line in sys.stdin:
    text = json.loads(line)["payload"]
    sys.stdout.write(json.dumps({"payload": {"text": text, "words": len(text.split())}}) + "\n")
    sys.stdout.flush()
