// SPDX-License-Identifier: Apache-2.0

// A refusal is on the page as soon as a node tells of it, not when nodes are asked again: they
// do not answer any more when it happens.
import assert from "node:assert/strict";
import { test } from "node:test";
import { edge, eventually, isRed, stage } from "./stage.mjs";

test("a refusal turns its edge red before the nodes are asked again", { timeout: 300_000 }, async () => {
  await stage("fixture", async ({ open, tell, problems }) => {
    const page = await open();
    const id = await eventually("there is an edge that was never refused", () => page.evaluate(() => window.mapGraph?.edges().find((e) => e.look === "locked")?.id));
    await eventually("the graph is arranged", () => page.evaluate(() => document.getElementById("graph").dataset.arranged));
    const late = await follower(open);
    await tell("hold");
    await eventually("a node is listened to", () => tell(`refuse ${id.replace("→", " ")}`).catch(() => false));
    await eventually("the edge is refused", async () => (await edge(page, id))?.look === "refused");
    await eventually("it is red", () => isRed(page, id));
    const said = new RegExp(`${id.replace("→", " → ")} refused: denied`);
    assert.match(await page.locator("#said").textContent(), said, "it is said, too");
    await page.locator(`[data-edge="${id}"] .state`, { hasText: "refused" }).waitFor();
    await page.keyboard.press("3");
    await page.locator("#panel-refusals", { hasText: "AuthorizationPolicy team-00/till" }).waitFor();
    late.release();
    await eventually("who follows only now hears it, too", async () => said.test(await late.page.locator("#said").textContent()));
    assert.deepEqual(problems, []);
  }, ["--workloads", "12", "--edges", "20"], "1m");
});

// follower is a page that has the graph, and hears nothing of what happens until it is released.
async function follower(open) {
  let release;
  const released = new Promise((done) => (release = done));
  const page = await open("", {}, (page) => page.route("**/api/live", (route) => released.then(() => route.continue())));
  return { page, release };
}
