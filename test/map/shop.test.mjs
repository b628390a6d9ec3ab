// SPDX-License-Identifier: Apache-2.0

// The story of the demo, as somebody sees it who looks at the map. It makes the pictures of
// the docs, too, if PICTURES names a directory.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { test } from "node:test";
import { edge, eventually, hoverEdge, isRed, pressEdge, stage } from "./stage.mjs";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const outside = "(outside)→shop/till", inside = "shop/web→shop/till";

// accessible asks axe about the page as it is. Its script comes by the debugger, past the
// content policy.
async function accessible(page, when) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"] }));
  assert.deepEqual(violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.target).join(", ")}`), [], when);
}

async function picture(page, name) {
  if (process.env.PICTURES) await page.screenshot({ path: join(process.env.PICTURES, `${name}.png`) });
}

const identities = ["spiffe://cluster.local/ns/shop/sa/web", "spiffe://cluster.local/ns/shop/sa/till"];

// pointing reads who is at the ends of an edge, without a click: by pointer, by keys, in the list.
async function pointing(page) {
  const tip = page.locator("#tip");
  const told = async (how) => {
    for (const id of identities) await tip.locator("code", { hasText: new RegExp(`^${id}$`) }).waitFor();
    assert.equal((await edge(page, inside)).pointed, true, how);
  };
  await eventually("the graph is arranged", () => page.evaluate(() => document.getElementById("graph").dataset.arranged));
  await hoverEdge(page, inside);
  await told("by the pointer");
  await accessible(page, "with a tip");
  await tip.hover(); // it stays
  await told("on the tip");
  await page.keyboard.press("Escape");
  await tip.waitFor({ state: "hidden" });
  await page.mouse.move(5, 5);
  await page.locator("#graph").focus();
  await page.keyboard.press("n");
  await told("by a key");
  assert.match(await page.locator("#said").textContent(), new RegExp(`shop/web → shop/till: locked. From ${identities[0]}, to ${identities[1]}`));
  await page.keyboard.press("Enter");
  await page.locator("#panel-details h2", { hasText: "shop/web → shop/till" }).waitFor();
  await page.keyboard.press("Escape");
  await page.keyboard.press("Escape");
  assert.doesNotMatch(page.url(), /sel=/);
  await page.keyboard.press("1");
  await page.locator(`[data-edge="${inside}"] button`).focus();
  await told("in the list");
  await page.keyboard.press("Escape");
}

test("an edge appears, turns red when STRICT shuts a client out, and explains itself", { timeout: 600_000 }, async () => {
  await stage("lab", async ({ open, tell, problems }) => {
    const page = await open();
    await eventually("both workloads are on the map", () => page.evaluate(() => window.mapGraph?.node("shop/web") && window.mapGraph.node("shop/till")));
    assert.equal(await edge(page, inside), null, "nobody has talked yet");
    await accessible(page, "without edges");

    await tell("talk");
    await eventually("the edge of the mesh is locked", async () => (await edge(page, inside))?.look === "locked");
    await eventually("its identities stand beside it", async () => (await edge(page, inside)).labelled);
    await pointing(page);
    await tell("say");
    await page.locator(`[data-edge="${inside}"] .state`, { hasText: "locked" }).waitFor();
    await eventually("its bytes are a line", () => page.locator(`[data-edge="${inside}"] svg.spark`).count());

    assert.equal(await tell("knock"), "let in");
    await eventually("the client outside is plaintext", async () => (await edge(page, outside))?.look === "plaintext");
    const latest = () => page.locator("#time").getAttribute("max").then(Number);
    const before = (await latest()) + 1000; // the slider has steps of a second
    await eventually("time goes on", async () => (await latest()) > before + 2000);

    await tell("strict");
    assert.match(await tell("knock"), /^refused/);
    await eventually("its edge is refused", async () => (await edge(page, outside))?.look === "refused");
    await eventually("it is red", () => isRed(page, outside));
    assert.match(await page.locator("#said").textContent(), /refused: denied/, "it is said, too");

    await page.evaluate(() => window.mapGraph.fit(40));
    await pressEdge(page, outside);
    const details = page.locator("#panel-details");
    await details.getByText("PeerAuthentication shop/default").first().waitFor();
    for (const part of ["denied: a policy refused it", "By PeerAuthentication shop/default", "STRICT, and the connection is plaintext", "would be refused by PeerAuthentication shop/default", "docs/policy.md#peerauthentication"]) {
      await eventually(`the details say ${part}`, async () => (await details.textContent()).includes(part)); // the verdict is by the nodes' next answer
    }
    assert.match(page.url(), /sel=/, "the selection is in the address");
    assert.doesNotMatch(page.url(), /token/, "the token is not");
    await details.getByRole("button", { name: /^Walk it/ }).first().click();
    const fault = details.locator(".walk li.fault").first();
    await fault.waitFor();
    assert.match(await fault.textContent(), /^policy: fault .*STRICT.*Change: .*PeerAuthentication shop\/default/, "the walk names the object to change");
    assert.equal(await details.locator(".walk li.ok, .walk li.not-needed").count() > 4, true, "what is so before it");
    await eventually("the graph is arranged", () => page.evaluate(() => document.getElementById("graph").dataset.arranged));
    await page.evaluate(() => window.mapGraph.fit(60));
    await picture(page, "map");
    await accessible(page, "the details of a refusal");

    const again = await open(new URL(page.url()).search.replace("?", "&"));
    await again.locator("#panel-details", { hasText: "denied" }).waitFor();

    await page.keyboard.press("Escape");
    for (const [key, want] of [["3", "Last refusals"], ["4", "shop/sa/web"], ["5", "2 pods: 2 intended, 2 enrolled, 2 verified"], ["1", "of 2 edges"]]) {
      await page.keyboard.press(key);
      await page.locator("[role=tabpanel]:not([hidden])", { hasText: want }).waitFor();
      await accessible(page, `the panel of key ${key}`);
    }
    await page.keyboard.press("t");
    assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), "dark");
    await accessible(page, "in the dark");
    await page.keyboard.press("3");
    await picture(page, "map-dark");

    await page.locator("#time").evaluate((slider, at) => {
      slider.value = at;
      slider.dispatchEvent(new Event("input"));
    }, before);
    await page.locator("#status", { hasText: "as it was" }).waitFor();
    await eventually("it is plaintext again, in the past", async () => (await edge(page, outside))?.look === "plaintext");
    await page.locator("#panel-refusals", { hasText: "Nothing was refused, until" }).waitFor();
    await page.keyboard.press("l");
    await page.locator("#status", { hasText: /^live: / }).waitFor();

    await page.locator("#q").fill("web");
    await eventually("the search hides the other edge", async () => !(await edge(page, outside)).shown && (await edge(page, inside)).shown);
    for (const [group, want] of [["node", "node1"], ["namespace,node", "shop/node1"], ["node,namespace", "node1/shop"]]) {
      await page.locator("#group").selectOption(group);
      await eventually(`workloads are grouped by ${group}`, () => page.evaluate((want) => window.mapGraph.node("shop/web").path.join("/") === want, want));
    }
    assert.deepEqual(problems, []);
  });
});
