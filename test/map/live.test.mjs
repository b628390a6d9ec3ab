// SPDX-License-Identifier: Apache-2.0

// A refusal is on the page as soon as a node tells of it, not when nodes are asked again.
import assert from "node:assert/strict";
import { test } from "node:test";
import { edge, eventually, isRed, stage } from "./stage.mjs";

test("a refusal turns its edge red before the nodes are asked again", { timeout: 300_000 }, async () => {
  await stage("fixture", async ({ open, tell, problems }) => {
    const page = await open();
    const id = await eventually("there is an edge that was never refused", () => page.evaluate(() => window.mapGraph?.edges().find((e) => e.look === "locked")?.id));
    const moment = () => page.locator("#time").getAttribute("max");
    const before = await moment();
    await eventually("a node is listened to", () => tell(`refuse ${id.replace("→", " ")}`).catch(() => false));
    await eventually("the graph is arranged", () => page.evaluate(() => document.getElementById("graph").dataset.arranged));
    await eventually("the edge is refused", async () => (await edge(page, id))?.look === "refused");
    await eventually("it is red", () => isRed(page, id));
    assert.equal(await moment(), before, "no moment came meanwhile");
    assert.match(await page.locator("#said").textContent(), new RegExp(`${id.replace("→", " → ")} refused: denied`), "it is said, too");
    await page.locator(`[data-edge="${id}"] .state`, { hasText: "refused" }).waitFor();
    await page.keyboard.press("3");
    await page.locator("#panel-refusals", { hasText: "AuthorizationPolicy team-00/till" }).waitFor();
    assert.deepEqual(problems, []);
  }, ["--workloads", "12", "--edges", "20"], "1m");
});
