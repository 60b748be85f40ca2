// Each page of the console: in both themes, on a phone and a desktop, by keyboard.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { DESKTOP, PHONE, checkAccessibility, checkWidth, open, postEvent } from "./browser.mjs";

/** Saves a picture of a page for a person to look at, if HOOKTRAIL_TEST_SCREENSHOTS is set. */
async function savePicture(page, data, name) {
  if (!process.env.HOOKTRAIL_TEST_SCREENSHOTS) return;
  mkdirSync(data.screenshots, { recursive: true });
  await page.screenshot({ path: `${data.screenshots}/${name}.png`, fullPage: true });
}

async function checkPage(page, data, { name, path, status = 200 }, scheme) {
  await page.setViewportSize(DESKTOP);
  await open(page, path, status);
  await checkAccessibility(page, `${name}, ${scheme}`);
  await savePicture(page, data, `page-${name}-${scheme}-1280`);
  await page.setViewportSize(PHONE);
  await checkWidth(page, `${name}, ${scheme}`);
  await checkAccessibility(page, `${name}, ${scheme}, 320 px`);
  await savePicture(page, data, `page-${name}-${scheme}-320`);
}

async function checkPages(browser, data, scheme) {
  const visitor = await browser.newPage({ colorScheme: scheme });
  await checkPage(visitor, data, { name: "sign-in", path: "/sign-in" }, scheme);
  const page = await browser.signedIn("/", { colorScheme: scheme });
  if (data.deferring) {
    // Each event of this source takes seconds to evaluate, one after another.
    let event;
    for (let count = 0; count < 10; count += 1) event = await postEvent(data, data.deferring, "{}");
    await checkPage(page, data, { name: "event-deferred", path: `/events/${event}` }, scheme);
    await page.getByText("The event is deferred:").waitFor();
  }
  for (const entry of data.pages) await checkPage(page, data, entry, scheme);
}

export const light = (browser, data) => checkPages(browser, data, "light");
export const dark = (browser, data) => checkPages(browser, data, "dark");

/** What has the focus, and whether a person can see it. */
function describeFocus() {
  const element = document.activeElement;
  if (element === document.body) return null;
  const style = getComputedStyle(element);
  const box = element.getBoundingClientRect();
  return {
    index: [...document.querySelectorAll("*")].indexOf(element),
    html: element.outerHTML.slice(0, 120),
    hasOutline: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
    isInView: box.width > 0 && box.bottom > 0 && box.right > 0 && box.top < innerHeight && box.left < innerWidth,
  };
}

/** Presses Tab from the start of a page to its end. Each control must get the focus, and show it. */
async function checkKeyboard(page, path) {
  await open(page, path);
  const controls = await page.evaluate(() => {
    const isShown = (element) => element.checkVisibility() && !element.disabled && element.type !== "hidden";
    const found = document.querySelectorAll("a[href], button, input, select, summary, [tabindex='0']");
    const all = [...document.querySelectorAll("*")];
    return [...found].filter(isShown).map((element) => all.indexOf(element));
  });
  const first = await page.evaluate(describeFocus);
  const reached = new Set(first ? [first.index] : []);
  for (let step = 0; step < controls.length * 2 + 5; step += 1) {
    await page.keyboard.press("Tab");
    const focus = await page.evaluate(describeFocus);
    if (!focus) break;
    reached.add(focus.index);
    assert.ok(focus.hasOutline, `${path}: the focus is not visible: ${focus.html}`);
    assert.ok(focus.isInView, `${path}: the focus is outside of the window: ${focus.html}`);
  }
  const missed = controls.filter((index) => !reached.has(index));
  const html = await page.evaluate(
    (missed) => missed.map((index) => document.querySelectorAll("*")[index].outerHTML.slice(0, 160)),
    missed,
  );
  assert.deepEqual(html, [], `${path}: not reached by Tab`);
}

export async function keyboard(browser, data) {
  await checkKeyboard(await browser.newPage(), "/sign-in");
  // Live pages replace what has changed, and the numbers of elements with it: the script is tested elsewhere.
  const page = await browser.signedIn("/", { javaScriptEnabled: true });
  await page.route("**/live", (route) => route.fulfill({ status: 204 }));
  page.expectedStatus = 204;
  for (const { path, status = 200 } of data.pages) {
    if (status === 200) await checkKeyboard(page, path);
  }
}

export async function skip_link(browser) {
  const page = await browser.signedIn("/events");
  await open(page, "/events");
  await page.keyboard.press("Tab");
  const skip = page.getByRole("link", { name: "Skip to the content" });
  assert.ok(await skip.evaluate((link) => link === document.activeElement));
  const box = await skip.boundingBox();
  assert.ok(box.x >= 0 && box.y >= 0, "the link is visible");
  await page.keyboard.press("Enter");
  await page.keyboard.press("Tab");
  const isInMain = await page.evaluate(() => document.getElementById("main").contains(document.activeElement));
  assert.ok(isInMain, "the next Tab is in the content");
}

export async function shortcuts(browser, data) {
  const page = await browser.signedIn("/events");
  await page.keyboard.press("/");
  const text = page.getByLabel("Text in the body");
  assert.ok(await text.evaluate((field) => field === document.activeElement));
  await page.keyboard.type("j/k");
  assert.equal(await text.inputValue(), "j/k", "keys in a field are text");
  const [first, second] = data.neighbours;
  await open(page, `/events/${first}`);
  await page.keyboard.press("j");
  await page.waitForURL(`**/events/${second}`);
  await page.keyboard.press("k");
  await page.waitForURL(`**/events/${first}`);
  await page.keyboard.press("Control+k");
  assert.ok(page.url().endsWith(`/events/${first}`));
}
