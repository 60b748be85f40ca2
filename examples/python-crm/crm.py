#!/usr/bin/env python3
"""Creates a contact in a CRM for each signup.

The exit code tells Hooktrail what to do next: 0 the job has succeeded, 65 (EX_DATAERR) the job is dead,
any other, such as 75 (EX_TEMPFAIL), retry. The last line of stderr is the job's detail in `hooktrail tail`.
"""

import json
import os
import sys
import urllib.error
import urllib.request

# The CRM would give the same response to a retry. Every other status may change: 401 once you have
# corrected the token, 404 once you have corrected the URL, 5xx once the CRM is well again.
PERMANENT = {400, 410, 413, 415, 422}


class RejectRedirects(urllib.request.HTTPRedirectHandler):
    """urllib would follow a redirect of a POST by a GET, which creates nothing and looks like success."""

    def redirect_request(self, *args):
        return None


def finish(code, detail):
    print(detail, file=sys.stderr)
    sys.exit(code)


def defer(seconds, detail):
    """Asks for the next attempt after a delay. A deferred attempt does not count as failed."""
    print(detail, file=sys.stderr)
    with os.fdopen(3, "w") as control:
        json.dump({"outcome": "deferred", "retry_after": seconds}, control)
    sys.exit(0)


def read_contact():
    try:
        signup = json.load(sys.stdin)
        return {"email": signup["email"], "name": signup.get("name")}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        finish(os.EX_DATAERR, f"not a signup: {error!r}")


def main():
    request = urllib.request.Request(
        os.environ["CRM_URL"] + "/contacts",
        data=json.dumps(read_contact()).encode(),
        headers={
            "Content-Type": "application/json",
            "Authorization": "Bearer " + os.environ["CRM_TOKEN"],
            # The same for every attempt of a job. If an earlier attempt reached the CRM and its response
            # was lost, the CRM recognises the repeat and creates no second contact.
            "Idempotency-Key": os.environ["HOOKTRAIL_IDEMPOTENCY_KEY"],
        },
    )
    try:
        opener = urllib.request.build_opener(RejectRedirects)
        with opener.open(request, timeout=20) as response:
            print(f"the CRM responded {response.status}: {response.read(1000).decode(errors='replace')}")
    except urllib.error.HTTPError as error:
        detail = f"the CRM responded {error.code}: {error.read(200).decode(errors='replace')}"
        if error.code == 429:
            wait = error.headers.get("Retry-After", "")
            defer(int(wait) if wait.isdecimal() else 60, detail)   # it may also be a date
        finish(os.EX_DATAERR if error.code in PERMANENT else os.EX_TEMPFAIL, detail)
    except OSError as error:   # no connection, no response in time
        finish(os.EX_TEMPFAIL, f"the CRM did not respond: {error}")


main()
