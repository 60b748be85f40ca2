// An event whose every field is markup, script, control characters, bidi characters and long words.

import assert from "node:assert/strict";
import { PHONE, checkAccessibility, checkWidth, open } from "./browser.mjs";

// Characters that are invisible, or that change the order or the form of the text around them.
const HIDDEN = "[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u00ad\\u061c\\u200b\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb]";

/** Checks that a page shows everything as text, and runs nothing. */
async function checkHarmless(page, path) {
  const found = await page.evaluate((hidden) => {
    const pattern = new RegExp(hidden, "u");
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const bad = [];
    while (texts.nextNode()) if (pattern.test(texts.currentNode.data)) bad.push(JSON.stringify(texts.currentNode.data));
    return {
      injected: document.querySelectorAll("main script, main img, main iframe, main style, main b, #injected").length,
      handlers: [...document.querySelectorAll("*")].flatMap((e) => e.getAttributeNames()).filter((n) => n.startsWith("on")),
      links: [...document.querySelectorAll("a[href]")].map((a) => a.protocol).filter((p) => !p.startsWith("http")),
      hasRun: window.hasRun ?? false,
      hidden: bad,
    };
  }, HIDDEN);
  assert.deepEqual(found, { injected: 0, handlers: [], links: [], hasRun: false, hidden: [] }, path);
}

export async function every_field(browser, data) {
  for (const colorScheme of ["light", "dark"]) {
    const page = await browser.signedIn("/", { colorScheme });
    for (const path of data.paths) {
      await page.setViewportSize({ width: 1280, height: 800 });
      await open(page, path);
      await page.evaluate(() => document.querySelectorAll("details").forEach((details) => (details.open = true)));
      await checkHarmless(page, path);
      await checkAccessibility(page, path);
      await page.setViewportSize(PHONE);
      await checkWidth(page, path);
    }
    // The texts themselves are there.
    await open(page, data.paths[0]);
    const text = await page.locator("main").evaluate((main) => main.textContent);
    for (const part of data.shown) assert.ok(text.includes(part), `${part} is not shown`);
  }
}
