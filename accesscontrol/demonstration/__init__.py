"""`make demo`: Lintel at work without a camera. A client of a throw-away server; no server imports it."""
