"""Removes from the valid requests of Schemathesis what a JSON schema can't describe."""

import schemathesis
from schemathesis import GenerationMode


@schemathesis.hook
def before_call(context, case, kwargs):
    # A stream has no end. What is invalid beside it may be a part of the request that the server does not read.
    if isinstance(case.query, dict) and str(case.query.get("follow")) == "1":
        case.query["follow"] = "0"
    if case.meta is None or case.meta.generation.mode != GenerationMode.POSITIVE:
        return
    if isinstance(case.query, dict):
        # A cursor is the `next` of the page before, and holds for its filters alone.
        case.query.pop("cursor", None)
    # Each time is valid, but `since` may be later than `until`.
    for fields in (case.query, case.body):
        if isinstance(fields, dict) and "since" in fields:
            fields.pop("until", None)
