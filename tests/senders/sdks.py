"""Runs the Python SDKs of senders, for tests/integration/sender_sdks.rs. `sign` prints secrets and signed
requests. `check` reads requests that Hooktrail signed, and the SDKs verify them."""

import base64
import json
import sys
import time
from datetime import datetime, timezone

import nacl.signing
import standardwebhooks
import stripe
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from sendgrid.helpers.eventwebhook import EventWebhook
from slack_sdk.signature import SignatureVerifier
from twilio.request_validator import RequestValidator

SECRET = "s3cret-and-l0ng"
KEY = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
BODY = '{"id":"evt_1","event_id":"Ev1","name":"Zażółć 🚀","n":12345678901234567890}'
FORM = {"CallSid": "CA1", "From": "+15005550006", "Body": "zażółć & co", "A": ""}
JSON = "application/json"


def url(name):
    return f"https://hooks.example.com/hooks/{name}"


def url_encode(form):
    from urllib.parse import urlencode

    return urlencode(form)


def sns(now):
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sns.amazonaws.com")])
    certificate = x509.CertificateBuilder().subject_name(name).issuer_name(name)
    certificate = certificate.public_key(key.public_key()).serial_number(7)
    certificate = certificate.not_valid_before(datetime(2020, 1, 1)).not_valid_after(datetime(2090, 1, 1))
    pem = certificate.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    requests = []
    for version, digest in (("1", hashes.SHA1()), ("2", hashes.SHA256())):
        body = {
            "Type": "Notification",
            "MessageId": f"m{version}",
            "TopicArn": "arn:aws:sns:eu-west-1:1:T",
            "Subject": "s",
            "Message": BODY,
            "Timestamp": datetime.fromtimestamp(now, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        }
        text = "".join(f"{key}\n{body[key]}\n" for key in sorted(body))
        signature = key.sign(text.encode(), padding.PKCS1v15(), digest)
        body |= {"SignatureVersion": version, "Signature": base64.b64encode(signature).decode()}
        requests.append(("sns", {}, json.dumps(body)))
    return pem, requests


def sign():
    now = int(time.time())
    timestamp = str(now)
    requests = []
    hook = standardwebhooks.Webhook(KEY)
    signature = hook.sign("msg_1", datetime.fromtimestamp(now, timezone.utc), BODY)
    ids = {"webhook-id": "msg_1", "webhook-timestamp": timestamp}
    requests.append(("standard", {**ids, "webhook-signature": signature}, BODY))

    header = stripe.WebhookSignature.generate_signature_header(BODY, SECRET)
    requests.append(("stripe", {"Stripe-Signature": header}, BODY))

    signature = SignatureVerifier(SECRET).generate_signature(timestamp=timestamp, body=BODY)
    headers = {"X-Slack-Request-Timestamp": timestamp, "X-Slack-Signature": signature}
    requests.append(("slack", headers, BODY))

    validator = RequestValidator(SECRET)
    signature = validator.compute_signature(url("twilio"), FORM)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    requests.append(("twilio", {**form, "X-Twilio-Signature": signature}, url_encode(FORM)))
    query = f"bodySHA256={validator.compute_hash(BODY)}"
    signature = validator.compute_signature(f"{url('twilio')}?{query}", {})
    headers = {"Content-Type": JSON, "X-Twilio-Signature": signature}
    requests.append((f"twilio?{query}", headers, BODY))

    discord = nacl.signing.SigningKey.generate()
    signature = discord.sign((timestamp + BODY).encode()).signature.hex()
    headers = {"X-Signature-Ed25519": signature, "X-Signature-Timestamp": timestamp}
    requests.append(("discord", headers, BODY))

    v1a = nacl.signing.SigningKey.generate()
    signature = v1a.sign(f"msg_2.{timestamp}.{BODY}".encode()).signature
    ids = {"webhook-id": "msg_2", "webhook-timestamp": timestamp}
    value = "v1a," + base64.b64encode(signature).decode()
    requests.append(("public", {**ids, "webhook-signature": value}, BODY))

    sendgrid = ec.generate_private_key(ec.SECP256R1())
    signature = sendgrid.sign((timestamp + BODY).encode(), ec.ECDSA(hashes.SHA256()))
    signature = base64.b64encode(signature).decode()
    spki = sendgrid.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    spki = base64.b64encode(spki).decode()
    events = EventWebhook()
    key = events.convert_public_key_to_ecdsa(spki)
    assert events.verify_signature(BODY, signature, timestamp, key)
    prefix = "X-Twilio-Email-Event-Webhook"
    headers = {f"{prefix}-Signature": signature, f"{prefix}-Timestamp": timestamp}
    requests.append(("sendgrid", headers, BODY))

    pem, notifications = sns(now)
    requests += notifications
    secrets = {
        "standard": KEY,
        "stripe": SECRET,
        "slack": SECRET,
        "twilio": SECRET,
        "discord": discord.verify_key.encode().hex(),
        "public": "whpk_" + base64.b64encode(v1a.verify_key.encode()).decode(),
        "sendgrid": spki,
        "sns": pem,
    }
    keys = ("path", "headers", "body")
    return {"secrets": secrets, "requests": [dict(zip(keys, request)) for request in requests]}


def check(name, headers, body):
    if name == "standard":
        standardwebhooks.Webhook(KEY).verify(body, headers)
    elif name == "stripe":
        stripe.Webhook.construct_event(body, headers["stripe-signature"], SECRET)
    elif name == "slack":
        assert SignatureVerifier(SECRET).is_valid_request(body, headers)
    elif name.startswith("twilio"):
        from urllib.parse import parse_qs

        form = {field: values[0] for field, values in parse_qs(body, True).items()}
        signed = form if "form" in headers["content-type"] else body
        signature = headers["x-twilio-signature"]
        assert RequestValidator(SECRET).validate(url(name), signed, signature)
    else:
        return
    print(f"ok {name}")


if sys.argv[1] == "sign":
    json.dump(sign(), sys.stdout)
else:
    for line in sys.stdin:
        request = json.loads(line)
        check(request["path"], request["headers"], request["body"])
