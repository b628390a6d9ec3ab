// SPDX-License-Identifier: Apache-2.0

// The story of the demo, as somebody sees it who looks at the map. It makes the pictures of
// the docs, too, if PICTURES names a directory.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { test } from "node:test";
import { edge, eventually, pressEdge, stage } from "./stage.mjs";

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

test("an edge appears, turns red when STRICT shuts a client out, and explains itself", { timeout: 600_000 }, async () => {
  await stage("lab", async ({ open, tell, problems }) => {
    const page = await open();
    await eventually("both workloads are on the map", () => page.evaluate(() => window.mapGraph?.getElementById("shop/web").nonempty() && window.mapGraph.getElementById("shop/till").nonempty()));
    assert.equal(await edge(page, inside), null, "nobody has talked yet");
    await accessible(page, "without edges");

    await tell("talk");
    const locked = await eventually("the edge of the mesh is locked", async () => {
      const e = await edge(page, inside);
      return e?.classes.includes("locked") && e;
    });
    assert.equal(locked.line, "solid");
    await tell("say");
    await page.locator(`[data-edge="${inside}"] .state`, { hasText: "locked" }).waitFor();
    await eventually("its bytes are a line", () => page.locator(`[data-edge="${inside}"] svg.spark`).count());

    assert.equal(await tell("knock"), "let in");
    await eventually("the client outside is plaintext", async () => (await edge(page, outside))?.classes.includes("plaintext"));
    const latest = () => page.locator("#time").getAttribute("max").then(Number);
    const before = (await latest()) + 1000; // the slider has steps of a second
    await eventually("time goes on", async () => (await latest()) > before + 2000);

    await tell("strict");
    assert.match(await tell("knock"), /^refused/);
    const red = await eventually("its edge is refused", async () => {
      const e = await edge(page, outside);
      return e?.classes.includes("refused") && e;
    });
    assert.equal(red.colour, "rgb(200,30,30)");
    assert.match(await page.locator("#said").textContent(), /refused: denied/, "it is said, too");

    await page.evaluate(() => window.mapGraph.fit(undefined, 40));
    await pressEdge(page, outside);
    const details = page.locator("#panel-details");
    await details.getByText("PeerAuthentication shop/default").first().waitFor();
    const text = await details.textContent();
    for (const part of ["denied: a policy refused it", "By PeerAuthentication shop/default", "STRICT, and the connection is plaintext", "would be refused by PeerAuthentication shop/default", "docs/policy.md#peerauthentication"]) {
      assert.ok(text.includes(part), `the details lack ${part}: ${text}`);
    }
    assert.match(page.url(), /sel=/, "the selection is in the address");
    assert.doesNotMatch(page.url(), /token/, "the token is not");
    await details.getByRole("button", { name: /^Walk it/ }).first().click();
    const fault = details.locator(".walk li.fault").first();
    await fault.waitFor();
    assert.match(await fault.textContent(), /^policy: fault .*STRICT.*Change: .*PeerAuthentication shop\/default/, "the walk names the object to change");
    assert.equal(await details.locator(".walk li.ok, .walk li.not-needed").count() > 4, true, "what is so before it");
    await eventually("the graph is arranged", () => page.evaluate(() => document.getElementById("graph").dataset.arranged));
    await page.evaluate(() => window.mapGraph.fit(undefined, 60));
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
    await eventually("it is plaintext again, in the past", async () => (await edge(page, outside))?.classes.includes("plaintext"));
    await page.keyboard.press("l");
    await page.locator("#status", { hasText: /^live: / }).waitFor();

    await page.locator("#q").fill("web");
    await eventually("the search hides the other edge", async () => !(await edge(page, outside)).shown && (await edge(page, inside)).shown);
    await page.locator("#group").selectOption("node");
    await eventually("workloads are grouped by node", () => page.evaluate(() => window.mapGraph.getElementById("shop/web").parent().id() === "box:node1"));
    assert.deepEqual(problems, []);
  });
});
