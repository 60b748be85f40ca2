// Signing in and out, and requests that no session allows.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { once } from "node:events";
import { callApi, open, postEvent, signIn } from "./browser.mjs";

const alert = (page) => page.getByRole("alert").innerText();

async function submit(page, token, status) {
  page.expectedStatus = status;
  await page.fill("#token", token);
  const [response] = await Promise.all([
    page.waitForResponse((response) => response.request().method() === "POST"),
    page.getByRole("button", { name: "Sign in" }).click(),
  ]);
  await page.waitForLoadState();
  return response;
}

export async function wrong_token(browser, data) {
  const page = await browser.newPage();
  await open(page, "/failures?handler=crm");
  assert.equal((await submit(page, "wrong", 401)).status(), 401);
  assert.equal(await alert(page), "This token is not valid.");
  assert.equal((await page.context().cookies()).length, 0);
  await submit(page, data.token, 401);
  await page.waitForURL("**/failures?handler=crm");
}

export async function attempt_limit(browser, data) {
  const page = await browser.newPage();
  await open(page, "/sign-in");
  for (let attempt = 0; attempt < 10; attempt += 1) {
    assert.equal((await submit(page, `wrong-${attempt}`, 401)).status(), 401);
  }
  const response = await submit(page, data.token, 429);
  assert.equal(response.status(), 429, "the right token has to wait too");
  assert.ok(Number(response.headers()["retry-after"]) > 0);
  assert.match(await alert(page), /^Too many attempts failed\. Try again in \d+ s\.$/);
}

export async function local_paths(browser, data) {
  for (const [next, path] of [
    ["/events?state=dead", "/events?state=dead"],
    ["https://example.com/", "/"],
    ["//example.com/", "/"],
    ["/\\example.com/", "/"],
    ["/\t/example.com/", "/"],
    ["javascript:alert(1)", "/"],
    ["", "/"],
  ]) {
    const page = await browser.newPage();
    await page.goto(`/sign-in?next=${encodeURIComponent(next)}`);
    await page.fill("#token", data.token);
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.waitForURL((url) => url.pathname !== "/sign-in");
    const url = new URL(page.url());
    assert.equal(url.origin + url.pathname + url.search, data.console + path, next);
    await page.context().close();
  }
}

export async function cookie(browser) {
  const page = await browser.signedIn("/");
  const [cookie, ...others] = await page.context().cookies();
  assert.deepEqual(others, []);
  const { name, httpOnly, sameSite, secure, path } = cookie;
  assert.deepEqual(
    { name, httpOnly, sameSite, secure, path },
    { name: "hooktrail_session", httpOnly: true, sameSite: "Strict", secure: false, path: "/" },
  );
  assert.equal(await page.evaluate(() => document.cookie), "");
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByLabel("Token").waitFor();
  assert.deepEqual(await page.context().cookies(), []);
}

/** Serves a page with a form that posts to the console, as another site would. Returns its server. */
async function otherSite(action, fields) {
  const inputs = Object.entries(fields).map(([name, value]) => `<input name="${name}" value="${value}">`);
  const html = `<form method="post" action="${action}">${inputs.join("")}<button>Win</button></form>`;
  const server = createServer((_, response) => response.setHeader("content-type", "text/html").end(html));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return server;
}

export async function forged_form(browser, data) {
  const event = await postEvent(data, "/hooks/a", "{}");
  const page = await browser.signedIn("/handlers");
  const token = await page.locator("[name=form_token]").first().inputValue();
  for (const host of ["127.0.0.1", "localhost"]) {
    for (const [path, fields] of [
      ["/handlers/mail/pause", { form_token: token }],
      ["/actions/replay", { form_token: token, events: event }],
    ]) {
      const server = await otherSite(data.console + path, fields);
      await page.goto(`http://${host}:${server.address().port}/`);
      page.expectedStatus = 403;
      await page.getByRole("button", { name: "Win" }).click();
      await page.getByText("the request comes from another site: open the console itself").waitFor();
      server.close();
      server.closeAllConnections();
    }
  }
  await open(page, "/handlers");
  await page.getByRole("region", { name: "Handler mail" }).getByText("active").waitFor();

  // A form of this site that lacks the token of the session.
  await page.locator("[name=form_token]").evaluateAll((fields) => fields.forEach((field) => (field.value = "x")));
  page.expectedStatus = 403;
  await page.getByRole("region", { name: "Handler mail" }).getByRole("button", { name: "Pause" }).click();
  await page.getByText("the form is from an earlier session").waitFor();
  await open(page, "/audit");
  await page.getByText("No entry yet.").waitFor();
}

export async function read_token(browser, data) {
  const event = await postEvent(data, "/hooks/a", "{}");
  const page = await browser.signedIn(`/events/${event}`, {}, data.readToken);
  await page.getByText("read only").waitFor();
  for (const path of [`/events/${event}`, "/failures", "/handlers", "/", "/events"]) {
    await open(page, path);
    const buttons = await page.getByRole("button").allInnerTexts();
    const changing = buttons.filter((name) => !["Sign out", "Search", "Copy"].includes(name));
    assert.deepEqual(changing, [], path);
  }
  page.expectedStatus = 403;
  const status = await page.evaluate(async () => {
    const body = new URLSearchParams({ form_token: document.querySelector("[name=form_token]").value });
    return (await fetch("/handlers/mail/pause", { method: "POST", body })).status;
  });
  assert.equal(status, 403);
  await open(page, "/handlers");
  await page.getByRole("region", { name: "Handler mail" }).getByText("active").waitFor();
  // A session that may only read can end.
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByLabel("Token").waitFor();
  assert.deepEqual(await page.context().cookies(), []);
}

export async function sign_in_link(browser, data) {
  const response = await callApi(data, "POST", "/sign-in-links");
  assert.ok(response.ok, `${response.status}`);
  const { path } = await response.json();
  const page = await browser.newPage();
  await open(page, path);
  await page.getByRole("heading", { name: "Overview" }).waitFor();
  assert.ok(!page.url().includes("code"), "the code is not in the address");
  const second = await browser.newPage();
  await open(second, path, 401);
  assert.match(await alert(second), /^This link was used, or is older than/);
  assert.deepEqual(await second.context().cookies(), []);
}

export async function session_before_reload(browser, data) {
  const page = await browser.signedIn("/events");
  await open(page, "/events");
  await page.context().storageState({ path: `${data.folder}/session.json` });
}

export async function session_after_reload(browser, data) {
  const page = await browser.newPage({ storageState: `${data.folder}/session.json` });
  await open(page, "/events");
  assert.ok(page.url().endsWith("/sign-in?next=%2Fevents"), page.url());
  await signIn(page, data.token, "/events");
}
