// The console in a browser without JavaScript: everything works but live pages.

import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { open, postEvent } from "./browser.mjs";

export async function everything(browser, data) {
  const page = await browser.signedIn("/events", { javaScriptEnabled: false });
  const first = page.locator("tbody th").first();

  // Older and newest events, and a search.
  assert.equal(await first.innerText(), String(data.events.at(-1)));
  await page.getByRole("link", { name: "Older" }).click();
  assert.equal(await first.innerText(), String(data.events.at(-51)));
  await page.getByRole("link", { name: "Newest" }).click();
  assert.equal(await first.innerText(), String(data.events.at(-1)));
  await page.getByLabel("Text in the body").fill(`contact-${data.events[2]}@`);
  await page.getByRole("button", { name: "Search" }).click();
  assert.equal(await page.locator("tbody tr").count(), 1);
  await first.getByRole("link").click();
  assert.ok(page.url().endsWith(`/events/${data.events[2]}`));

  // The next and the previous event, and the body as it was received.
  await page.getByRole("link", { name: "Next" }).click();
  assert.ok(page.url().endsWith(`/events/${data.events[3]}`));
  await page.getByRole("link", { name: "Previous" }).click();
  await page.getByRole("link", { name: "raw" }).click();
  assert.match(await page.locator("#body").innerText(), /^\{"email"/);

  // A retry of one job.
  writeFileSync(`${data.folder}/repaired`, "");
  await page.getByRole("button", { name: "Retry" }).click();
  await page.getByText("Retry: 1 job retried.").waitFor();
  while ((await page.getByText("exit 0").count()) === 0) await open(page, `/events/${data.events[2]}`);

  // A retry of a group, with its confirmation.
  await open(page, "/failures");
  await page.getByRole("button", { name: "Retry all dead" }).click();
  const jobs = data.events.length - 1;
  await page.getByRole("button", { name: `Retry ${jobs} jobs` }).click();
  await page.getByText(`${jobs} jobs retried.`).waitFor();

  // Pause and resume.
  await open(page, "/handlers");
  await page.getByRole("button", { name: "Pause" }).click();
  await page.getByText("paused").waitFor();
  await page.getByRole("button", { name: "Resume" }).click();
  await page.getByText("active").waitFor();

  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByLabel("Token").waitFor();
  await open(page, "/events");
  assert.ok(page.url().includes("/sign-in?next="), "the session has ended");
}
