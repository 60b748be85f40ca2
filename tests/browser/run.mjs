// Runs one scenario in a browser, for tests/integration/console.rs: `node run.mjs TOPIC SCENARIO`. The test gives the
// addresses, the token and the numbers of its events as JSON on standard input. If the scenario fails, this prints
// the error and the paths of screenshots, and exits with 1.

import { readFileSync } from "node:fs";
import { Browser } from "./browser.mjs";

// The longest time of one scenario. A test that waits for a condition fails sooner.
const LIMIT_MS = 400_000;

const [topic, name] = process.argv.slice(2);
const data = JSON.parse(readFileSync(0, "utf8"));
const { [name]: scenario } = await import(`./${topic}.mjs`);
if (!scenario) throw new Error(`${topic}.mjs has no scenario ${name}`);

const browser = await Browser.start(data, `${topic}-${name}`);
const timer = setTimeout(async () => {
  await fail(new Error(`the scenario has not ended after ${LIMIT_MS / 1000} s`));
}, LIMIT_MS);

async function fail(error) {
  console.error(error.stack ?? error);
  for (const path of await browser.saveScreenshots()) console.error(`screenshot: ${path}`);
  await browser.close();
  process.exit(1);
}

try {
  await scenario(browser, data);
  browser.checkConsole();
} catch (error) {
  await fail(error);
}
clearTimeout(timer);
await browser.close();
