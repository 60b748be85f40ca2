// Runs the Node SDKs of senders, for tests/integration/sender_sdks.rs. `sign` prints secrets and signed
// requests. `check` reads requests that Hooktrail signed, and the SDKs verify them.

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { readFileSync } from "node:fs";

// The SDKs are in the folder that HOOKTRAIL_TEST_NODE names.
const require = createRequire(pathToFileURL(`${process.env.HOOKTRAIL_TEST_NODE}/here.js`));
const load = async (name) => import(pathToFileURL(require.resolve(name)));
const octokit = await import(
  pathToFileURL(
    `${process.env.HOOKTRAIL_TEST_NODE}/node_modules/@octokit/webhooks-methods/dist-node/index.js`,
  )
);
const { Webhook } = await load("svix");
const { Paddle } = await load("@paddle/paddle-node-sdk");
const hubspot = await load("@hubspot/api-client");
const Signature = hubspot.Signature ?? hubspot.default.Signature;

const SECRET = "s3cret-and-l0ng";
const KEY = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const BODY = '{"id":"evt_1","event_id":"Ev1","name":"Zażółć 🚀","n":12345678901234567890}';
const url = (path) => `https://hooks.example.com/hooks/${path}`;

async function sign() {
  const now = new Date();
  const seconds = Math.floor(now / 1000);
  const github = await octokit.sign(SECRET, BODY);
  const svix = new Webhook(KEY).sign("msg_1", now, BODY);
  const timestamp = now.getTime();
  const hubspot = Signature.getSignature("POST", "v3", {
    clientSecret: SECRET,
    requestBody: BODY,
    url: url("hubspot"),
    timestamp,
  });
  return {
    secrets: { github: SECRET, svix: KEY, hubspot: SECRET, paddle: SECRET },
    requests: [
      {
        path: "github",
        headers: { "X-Hub-Signature-256": github, "X-GitHub-Delivery": "1" },
        body: BODY,
      },
      {
        path: "svix",
        headers: { "svix-id": "msg_1", "svix-timestamp": `${seconds}`, "svix-signature": svix },
        body: BODY,
      },
      {
        path: "hubspot",
        headers: {
          "X-HubSpot-Signature-v3": hubspot,
          "X-HubSpot-Request-Timestamp": `${timestamp}`,
        },
        body: BODY,
      },
    ],
  };
}

async function check({ path, headers, body }) {
  const verify = {
    github: () => octokit.verify(SECRET, body, headers["x-hub-signature-256"]),
    // Throws if the signature is wrong.
    svix: () => (new Webhook(KEY).verify(body, headers), true),
    paddle: () =>
      new Paddle("k").webhooks.isSignatureValid(body, SECRET, headers["paddle-signature"]),
    hubspot: () =>
      Signature.isValid({
        method: "POST",
        signatureVersion: "v3",
        clientSecret: SECRET,
        requestBody: body,
        url: url("hubspot"),
        timestamp: Number(headers["x-hubspot-request-timestamp"]),
        signature: headers["x-hubspot-signature-v3"],
      }),
  }[path];
  if (!verify) return;
  if (!(await verify())) throw new Error(`${path}: its SDK rejects the signature`);
  console.log(`ok ${path}`);
}

if (process.argv[2] === "sign") {
  console.log(JSON.stringify(await sign()));
} else {
  for (const line of readFileSync(0, "utf8").split("\n").filter(Boolean)) {
    await check(JSON.parse(line));
  }
}
