#!/usr/bin/env python3
"""Mails one alert through the program SENDMAIL: msmtp, sendmail or any other that knows `-t` and `-i`.

Exit codes: 0 the mail program has accepted the mail; any other: retry. `hooktrail list --handler mail` shows the
alerts that are not mailed yet.
"""

import json
import os
import shutil
import subprocess
import sys
from email.message import EmailMessage

alert = json.load(sys.stdin)   # made by Hooktrail, so it is valid JSON

message = EmailMessage()
message["To"] = os.environ["MAIL_TO"]
message["Subject"] = "hooktrail: " + " ".join(filter(None, [alert["type"], alert["handler"] or alert["source"]]))
# The same at a retry, so that mail programs recognise a mail that was sent twice.
message["Message-ID"] = f"<{os.environ['HOOKTRAIL_IDEMPOTENCY_KEY']}@hooktrail>"
lines = [f"{name}: {value}" for name, value in alert.items() if value is not None]
if alert["event"] is not None:
    lines += ["", f"Details: hooktrail show {alert['event']}"]
message.set_content("\n".join(lines) + "\n")

# sendmail is usually in /usr/sbin, which is not in the PATH of an ordinary user.
path = os.environ["PATH"] + ":/usr/sbin:/usr/lib"
program = shutil.which(os.environ["SENDMAIL"], path=path)
if program is None:
    print(f"no {os.environ['SENDMAIL']} in {path}", file=sys.stderr)
    sys.exit(os.EX_TEMPFAIL)

# -t: the recipient is in the header To. -i: a line that is a single dot does not end the mail.
sent = subprocess.run([program, "-t", "-i"], input=message.as_bytes())
if sent.returncode != 0:
    # Not the mail program's own code: its 65 would make the job dead, and an alert is worth a retry.
    print(f"{program} ended with {sent.returncode}", file=sys.stderr)
    sys.exit(os.EX_TEMPFAIL)
