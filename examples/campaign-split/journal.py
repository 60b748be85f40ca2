#!/usr/bin/env python3
"""Adds one entry to the journal of one contact, a text file in the folder JOURNALS.

stdin is what `transform` in config.toml yields: {"contact_id": 101, "entry": "…"}.
Exit codes: 0 done; 65 (EX_DATAERR) never retry; any other, such as 1 after an exception, retry.
"""

import json
import os
import sys
from pathlib import Path

try:
    item = json.load(sys.stdin)
    contact_id, entry = int(item["contact_id"]), str(item["entry"])
except (ValueError, LookupError, TypeError) as error:
    print(f"not a contact: {error!r}", file=sys.stderr)
    sys.exit(os.EX_DATAERR)

# The number becomes a file's name, so it must be a number: see int() above.
journal = Path(os.environ["JOURNALS"]) / f"{contact_id}.txt"
journal.parent.mkdir(parents=True, exist_ok=True)
entries = journal.read_text().splitlines() if journal.exists() else []

# No lock is needed between reading and writing: with `ordering_key`, no other job of this contact runs.
if entry in entries:
    # A retry after an attempt that wrote the entry and was killed before its exit.
    print("the entry was there before")
    sys.exit(0)

# Written under another name and renamed, so that a crash leaves the old journal or the new one.
temporary = journal.with_suffix(".new")
with temporary.open("w") as file:
    file.writelines(f"{line}\n" for line in [*entries, entry])
    file.flush()
    os.fsync(file.fileno())
temporary.rename(journal)
print(f"added to {journal}")
