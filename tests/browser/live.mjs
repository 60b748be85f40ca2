// Pages that are open while something happens.

import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { postEvent, until } from "./browser.mjs";

/** Marks a page: a load of the page would lose the mark. */
const mark = (page) => page.evaluate(() => { window.isSamePage = true; });
const isMarked = (page) => page.evaluate(() => window.isSamePage === true);
const live = (page) => page.locator("#live:not([hidden])").waitFor();
const firstEvent = () => document.querySelector("tbody th")?.innerText;
const post = (data, body = "{}") => postEvent(data, "/hooks/a", body);

export async function new_events(browser, data) {
  let newest = await post(data);
  const page = await browser.signedIn("/events");
  await live(page);
  await mark(page);
  newest = await post(data);
  await until(page, firstEvent, String(newest));

  // The focus stays on the link of its event, which moves down.
  const link = page.getByRole("link", { name: String(newest), exact: true });
  await link.focus();
  const next = await post(data);
  await until(page, firstEvent, String(next));
  assert.equal(await page.evaluate(() => document.activeElement.innerText), String(newest));

  // A person who types in the filters keeps the text, and the list goes on.
  await page.getByLabel("Text in the body").fill("half a wo");
  const another = await post(data);
  await until(page, firstEvent, String(another));
  assert.equal(await page.getByLabel("Text in the body").inputValue(), "half a wo");
  assert.equal(await page.evaluate(() => document.activeElement.id), "text");
  assert.ok(await isMarked(page));
}

export async function new_outcomes(browser, data) {
  const event = await post(data, '{"first":1}');
  const page = await browser.signedIn(`/events/${event}`);
  const items = page.locator("ol.timeline > li");
  await page.getByText("failed", { exact: true }).first().waitFor();
  await live(page);
  await mark(page);

  // An open and a closed `details`, the focus, and the place of a box that scrolls stay.
  await page.getByText(/^Headers/).click();
  await page.getByText("stderr", { exact: false }).first().click();
  const body = page.locator("#body");
  await body.focus();
  const before = await items.count();
  writeFileSync(`${data.folder}/repaired`, "");
  await page.evaluate(() => { document.activeElement.dataset.mark = "1"; });
  await page.getByText("exit 0").waitFor();
  await page.locator(".job-head").getByText("succeeded").waitFor();
  assert.ok((await items.count()) > before);
  assert.ok(await page.locator("details").filter({ hasText: "Headers" }).evaluate((d) => d.open));
  assert.ok(!(await page.locator("details").filter({ hasText: "stderr" }).first().evaluate((d) => d.open)));
  assert.equal(await page.evaluate(() => document.activeElement.id), "body");
  assert.ok(await isMarked(page));
}

export async function text_selection(browser, data) {
  const newest = await post(data);
  const page = await browser.signedIn("/events");
  await live(page);
  const select = (name) => {
    const cell = [...document.querySelectorAll("tbody th")].find((cell) => cell.innerText === name);
    getSelection().selectAllChildren(cell.parentElement.children[1]);
    return String(getSelection());
  };
  const selected = await page.evaluate(select, String(newest));
  assert.match(selected, /\d\d:\d\d:\d\d/);
  // Another page shows that the event has arrived. The selection holds back this one.
  const other = await browser.signedIn("/events");
  await live(other);
  const next = await post(data);
  await until(other, firstEvent, String(next));
  assert.equal(await page.evaluate(() => String(getSelection())), selected);
  await page.evaluate(() => getSelection().removeAllRanges());
  await until(page, firstEvent, String(next));
}

export async function overview(browser, data) {
  await post(data);
  const page = await browser.signedIn("/");
  await live(page);
  await mark(page);
  const sources = page.locator("table").nth(1);
  const count = () => sources.locator("tbody tr").first().locator(".beside").innerText();
  const before = Number(await count());
  await post(data);
  await sources.getByText(String(before + 1), { exact: true }).waitFor();
  assert.ok(await isMarked(page));
}
