#!/usr/bin/env python3
"""Stands for a CRM, so that you can try the example without one: prints each request that it gets."""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

contacts_by_key = {}


class StubCrm(BaseHTTPRequestHandler):
    def do_POST(self):
        contact = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = self.headers["Idempotency-Key"]
        if not self.headers["Authorization"]:
            status = 401
        elif "@" not in contact["email"]:
            status = 422
        elif contacts_by_key.setdefault(key, contact) is contact:
            status = 201
        else:
            status = 200   # a repeat: nothing new is created
        print(status, self.path, json.dumps(contact), flush=True)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b"invalid email" if status == 422 else b"")

    def log_message(self, *args):
        pass


port = int(sys.argv[1]) if len(sys.argv) > 1 else 9000
server = HTTPServer(("127.0.0.1", port), StubCrm)
print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
