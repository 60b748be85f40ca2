// The browser under test: pages that record the errors of their console, signing in, and the checks of a page.
//
// Playwright waits until an element can be used. A scenario waits for a condition, and never for a time.

import assert from "node:assert/strict";
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

// The packages are in the folder that HOOKTRAIL_TEST_BROWSER names.
const FOLDER = process.env.HOOKTRAIL_TEST_BROWSER;
const require = createRequire(pathToFileURL(`${FOLDER}/here.js`));
const { chromium } = require("playwright-core");
const AXE = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
const WAIT_MS = 60_000;

/** The width of a small phone, at which nothing may be wider than the window (WCAG 2.2, reflow). */
export const PHONE = { width: 320, height: 640 };
export const DESKTOP = { width: 1280, height: 800 };

export class Browser {
  static async start(data, name) {
    const program = await chromium.launch({ executablePath: data.chromium, chromiumSandbox: false });
    return Object.assign(new Browser(), { program, data, name, errors: [], cookies: new Map() });
  }

  async close() {
    await this.program.close();
  }

  /** Opens a page without a session. `options` are those of a browser context. */
  async newPage(options = {}) {
    const context = await this.program.newContext({
      viewport: DESKTOP,
      reducedMotion: "reduce",
      baseURL: this.data.console,
      ...options,
    });
    context.setDefaultTimeout(WAIT_MS);
    const page = await context.newPage();
    page.expectedStatus = 200;
    page.on("console", (message) => {
      // A browser also logs the status of the page, which a scenario may expect.
      const isExpected =
        page.expectedStatus >= 400 &&
        message.text().includes(`status of ${page.expectedStatus}`);
      if (["error", "warning"].includes(message.type()) && !isExpected) {
        this.errors.push(`${page.url()}: ${message.text()}`);
      }
    });
    page.on("pageerror", (error) => this.errors.push(`${page.url()}: ${error.stack}`));
    page.on("dialog", (dialog) => {
      this.errors.push(`${page.url()}: a dialog: ${dialog.message()}`);
      dialog.dismiss();
    });
    return page;
  }

  /** Opens a page with a session of the token, at `path`. */
  async signedIn(path = "/", options = {}, token = this.data.token) {
    const page = await this.newPage(options);
    await signIn(page, token, path);
    return page;
  }

  /** Fails if a page had an error in its console: of a script, or of the Content-Security-Policy. */
  checkConsole() {
    assert.deepEqual(this.errors, [], "errors in the console of the browser");
  }

  /** Saves a picture of each open page. Returns their paths. */
  async saveScreenshots() {
    const folder = this.data.screenshots;
    mkdirSync(folder, { recursive: true });
    const paths = [];
    for (const page of this.program.contexts().flatMap((context) => context.pages())) {
      const path = `${folder}/${this.name}-${paths.length + 1}.png`;
      try {
        await page.screenshot({ path, fullPage: true, timeout: 10_000 });
        paths.push(path);
      } catch (error) {
        console.error(`no screenshot of ${page.url()}: ${error.message}`);
      }
    }
    return paths;
  }
}

/** Signs in by the form. `path` leads there, and the page then is `path`. */
export async function signIn(page, token, path = "/") {
  await page.goto(path);
  await page.fill("#token", token);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.waitForURL((url) => url.pathname + url.search === path);
}

/** Opens a path, which must have this status. */
export async function open(page, path, status = 200) {
  page.expectedStatus = status;
  const response = await page.goto(path);
  assert.equal(response.status(), status, path);
}

/** Fails if axe finds a violation. */
export async function checkAccessibility(page, name) {
  // Over the debugger, as the page's own policy allows no foreign script.
  const debug = (page.debug ??= await page.context().newCDPSession(page));
  await debug.send("Runtime.evaluate", { expression: AXE });
  const violations = await page.evaluate(async (rules) => {
    const result = await axe.run(document, { runOnly: rules, preload: false });
    return result.violations.map(
      ({ id, nodes }) => `${id}: ${nodes.map((node) => `${node.html}: ${node.failureSummary}`).join("\n  ")}`,
    );
  }, RULES);
  assert.deepEqual(violations, [], `${name}: accessibility`);
}

/** Fails if something is wider than the window. Tables scroll within their own box. */
export async function checkWidth(page, name) {
  const wide = await page.evaluate(() => {
    const width = document.documentElement.clientWidth;
    const isOutside = (element) => {
      if (element.closest(".scroll > *, .skip, svg *")) return false;
      const box = element.getBoundingClientRect();
      return box.width > 0 && (box.right > width + 0.5 || box.left < -0.5);
    };
    return {
      scroll: document.documentElement.scrollWidth - width,
      elements: [...document.body.querySelectorAll("*")].filter(isOutside).map((e) => e.outerHTML.slice(0, 120)),
    };
  });
  assert.deepEqual(wide, { scroll: 0, elements: [] }, `${name}: wider than the window`);
}

/** Waits until `read` of the page returns `expected`. */
export async function until(page, read, expected, argument) {
  const deadline = Date.now() + WAIT_MS;
  let found;
  do {
    found = await page.evaluate(read, argument);
    if (JSON.stringify(found) === JSON.stringify(expected)) return;
    await page.waitForFunction(() => new Promise(requestAnimationFrame).then(() => true));
  } while (Date.now() < deadline);
  assert.deepEqual(found, expected, "timed out");
}

/** Posts a webhook. Returns the number of its event. */
export async function postEvent(data, path, body, headers = { "content-type": "application/json" }) {
  const response = await fetch(`${data.intake}${path}`, { method: "POST", headers, body });
  assert.ok(response.ok, `${path}: ${response.status}`);
  return (await response.json()).event;
}

/** Calls the API with the token of the console. Returns the response. */
export async function callApi(data, method, path, body, token = data.token) {
  const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
  return fetch(`${data.console}/api/v1${path}`, { method, headers, body: body && JSON.stringify(body) });
}
