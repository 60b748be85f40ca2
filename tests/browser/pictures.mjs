// The pictures of the console in README.md and docs/.

import { mkdirSync } from "node:fs";
import { DESKTOP, open } from "./browser.mjs";

export async function save(browser, data) {
  mkdirSync(data.images, { recursive: true });
  for (const colorScheme of ["light", "dark"]) {
    const page = await browser.signedIn("/", { colorScheme, viewport: DESKTOP, deviceScaleFactor: 1 });
    for (const { name, path, schemes } of data.pictures) {
      if (!schemes.includes(colorScheme)) continue;
      await open(page, path);
      await page.locator("#live:not([hidden])").waitFor();
      const suffix = colorScheme === "dark" ? "-dark" : "";
      await page.screenshot({ path: `${data.images}/${name}${suffix}.png` });
    }
  }
}
