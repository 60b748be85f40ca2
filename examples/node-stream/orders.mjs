// Appends each order once to the file ORDERS: a handler in stream mode, without dependencies.
//
// Hooktrail starts this process at the first job and writes each job as a line of JSON to its stdin. The
// process writes a line of JSON to stdout for each job. Only these lines may go to stdout, so everything else
// goes to stderr. Hooktrail closes stdin when it stops, or when a reload replaces the process, which then ends.

import { fstatSync, fsyncSync, ftruncateSync, openSync, readFileSync, writeSync } from "node:fs";
import { createInterface } from "node:readline";

// A failure that is not the order's fault ends the process. Hooktrail then retries the job with a new
// process, which repairs the file as it starts.
function exitFailed(error) {
  console.error(`cannot write ${process.env.ORDERS}: ${error.message}`);
  process.exit(1);
}

function openOrders(path) {
  const file = openSync(path, "a+");
  const text = readFileSync(path);
  // An earlier process may have been killed in the middle of a line.
  const complete = text.subarray(0, text.lastIndexOf("\n") + 1);
  if (complete.length < fstatSync(file).size) ftruncateSync(file, complete.length);
  const lines = complete.toString().split("\n").filter(Boolean);
  return { file, storedKeys: new Set(lines.map((line) => JSON.parse(line).key)) };
}

// State that outlives a job is why this handler is in stream mode: it reads the file once, not for each job.
let orders;
try {
  orders = openOrders(process.env.ORDERS);
} catch (error) {
  exitFailed(error);
}

function storeOrder({ idempotency_key: key, body: order }) {
  // A body that is not JSON arrives as `body_base64`, so `order` is then undefined.
  if (typeof order?.id !== "string") return { outcome: "dead", detail: "not an order: no id" };
  // A retry has the same key. An earlier attempt stored this order, and its outcome was lost.
  if (orders.storedKeys.has(key)) return { outcome: "succeeded", detail: `${order.id} was stored before` };
  writeSync(orders.file, JSON.stringify({ key, id: order.id, total: order.total }) + "\n");
  fsyncSync(orders.file);
  orders.storedKeys.add(key);
  return { outcome: "succeeded", detail: `stored ${order.id}` };
}

for await (const line of createInterface({ input: process.stdin })) {
  const job = JSON.parse(line);
  try {
    process.stdout.write(JSON.stringify({ job: job.job, ...storeOrder(job) }) + "\n");
  } catch (error) {
    exitFailed(error);
  }
}
