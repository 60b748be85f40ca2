// What an operator does: finds an event, reads its output, retries, pauses, and cancels.

import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { open, postEvent } from "./browser.mjs";

/** The card of a handler's job on the page of an event. */
const job = (page, handler) => page.locator("section.job").filter({ has: page.getByRole("heading", { name: handler }) });

export async function find_and_retry(browser, data) {
  const event = await postEvent(data, "/hooks/a", '{"email":"Grace@example.com"}');
  await postEvent(data, "/hooks/a", '{"email":"alan@example.com"}');
  const page = await browser.signedIn("/events");
  await page.getByLabel("Text in the body").fill("grace@EXAMPLE");
  await page.getByRole("button", { name: "Search" }).click();
  await page.getByRole("rowheader", { name: String(event), exact: true }).waitFor();
  assert.equal(await page.locator("tbody tr").count(), 1);
  await page.getByRole("link", { name: String(event), exact: true }).click();
  const card = job(page, "crm");
  await card.getByText("dead", { exact: true }).waitFor();
  assert.match(await card.locator("pre").last().innerText(), /no contact Grace@example.com/);
  writeFileSync(`${data.folder}/repaired`, "");
  await card.getByRole("button", { name: "Retry" }).click();
  await page.getByText("Retry: 1 job retried.").waitFor();
  await card.getByText("exit 0").waitFor();
  assert.equal(await card.locator("ol.timeline > li").count(), 2);
  assert.equal(await card.getByRole("button", { name: "Retry" }).count(), 0, "a success is not retried");
}

export async function retry_group(browser, data) {
  const events = [];
  for (const number of [1, 2, 3]) events.push(await postEvent(data, "/hooks/a", `{"email":"${number}@example.com"}`));
  const page = await browser.signedIn("/failures");
  const row = page.getByRole("row").filter({ hasText: "no contact" });
  await row.getByRole("cell", { name: "3", exact: true }).first().waitFor();
  writeFileSync(`${data.folder}/repaired`, "");
  await row.getByRole("button", { name: "Retry" }).click();
  await page.getByRole("heading", { name: "Retry 3 jobs?" }).waitFor();
  assert.equal(await page.getByText("exit 0").count(), 0);
  await page.getByRole("link", { name: "Back" }).click();
  await page.getByRole("heading", { name: "Failures" }).waitFor();
  await row.getByRole("button", { name: "Retry" }).click();
  await page.getByRole("button", { name: "Retry 3 jobs" }).click();
  await page.waitForURL("**/operations/*");
  await page.getByText("3 jobs retried.").waitFor();
  await open(page, "/failures");
  await page.getByText("No job fails.").waitFor();
  await open(page, "/audit");
  await page.getByRole("row").filter({ hasText: "retry" }).filter({ hasText: "console" }).first().waitFor();
  await open(page, `/events/${events[0]}`);
  await job(page, "crm").getByText("exit 0").waitFor();
}

export async function pause_and_resume(browser, data) {
  const page = await browser.signedIn("/handlers");
  const card = page.getByRole("region", { name: "Handler mail" });
  await card.getByRole("button", { name: "Pause" }).click();
  await card.getByText("paused").waitFor();
  const event = await postEvent(data, "/hooks/a", '{"email":"ada@example.com"}');
  await card.getByText("1 queued").waitFor();
  await open(page, `/events/${event}`);
  await job(page, "mail").getByText("queued", { exact: true }).waitFor();
  await open(page, "/handlers");
  await card.getByRole("button", { name: "Resume" }).click();
  await card.getByText("active").waitFor();
  await open(page, `/events/${event}`);
  await job(page, "mail").getByText("exit 0").waitFor();
}

export async function replay_and_dismiss(browser, data) {
  const event = await postEvent(data, "/hooks/a", '{"email":"ada@example.com"}');
  const page = await browser.signedIn(`/events/${event}`);
  await job(page, "crm").getByText("dead", { exact: true }).waitFor();
  await job(page, "crm").getByRole("button", { name: "Dismiss" }).click();
  await page.getByText("Cancel: 1 job cancelled.").waitFor();
  await job(page, "crm").locator(".job-head").getByText("cancelled", { exact: true }).waitFor();
  await page.getByRole("button", { name: "Replay" }).click();
  await page.getByText("Replay: 2 new jobs.").waitFor();
  await page.getByRole("heading", { name: "crm" }).nth(1).waitFor();
}
