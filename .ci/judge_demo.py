"""Reads the last line of `make demo` and says whether doors did their job. Used by .ci/run."""

import json
import sys

result = json.loads(sys.stdin.read())
expectations = {
    "somebody was enrolled": result["enrolled"] > 0,
    "most of the enrolled were let in": result["genuine_accepted"] >= 0.5 * result["genuine"] > 0,
    "strangers were kept out": result["impostor"] > 0
    and result["impostor_accepted"] <= 0.1 * result["impostor"],
    "a capture is at most 300 KB": 0 < result["payload_bytes"] <= 300_000,
    "the audit log verifies": result["audit_verified"] is True,
}
for expectation, holds in expectations.items():
    print(f"{'ok  ' if holds else 'FAIL'} {expectation}")
sys.exit(0 if all(expectations.values()) else 1)
