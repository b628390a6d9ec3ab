// SPDX-License-Identifier: Apache-2.0

// What the tests play on: a stage, culvert map in front of it, and a browser.
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const root = fileURLToPath(new URL("../..", import.meta.url));
const patience = 120_000; // machines of CI are slow, and builds come first

// start runs a program, and has its lines.
function start(program, args) {
  const child = spawn(program, args, { cwd: root, stdio: ["pipe", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return {
    child,
    async line() {
      const { value, done } = await lines.next();
      if (done) throw new Error(`${program} has ended`);
      return value;
    },
    end() {
      child.stdin.end();
      return new Promise((done) => {
        if (child.exitCode !== null || child.signalCode !== null) done();
        child.once("exit", done);
        if (program.endsWith("culvert")) child.kill("SIGTERM");
      });
    },
  };
}

// stage starts all of it, and calls play; it ends all of it, however that ends. Nodes are asked
// as often as every says.
export async function stage(kind, play, args = [], every = "1s") {
  const running = [];
  let browser;
  try {
    const scene = start("bin/stage", [kind, ...args]);
    running.push(scene);
    const map = start("bin/culvert", ["map", "--listen", "127.0.0.1:0", "--every", every, "--ztunnel", await scene.line()]);
    running.push(map);
    const address = (await map.line()).replace("the map is at ", "");
    browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
    const problems = [];
    const open = async (more = "", options = {}, before = async () => {}) => {
      const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, colorScheme: "light", reducedMotion: "reduce", ...options });
      const page = await context.newPage();
      page.setDefaultTimeout(patience);
      page.on("console", (m) => ["error", "warning"].includes(m.type()) && problems.push(`console: ${m.text()}`));
      page.on("pageerror", (e) => problems.push(`page: ${e}`));
      page.on("request", (r) => new URL(r.url()).host === new URL(address).host || problems.push(`a request to elsewhere: ${r.url()}`));
      await before(page);
      await page.goto(address + more);
      await page.locator("#status", { hasText: /^live: / }).waitFor();
      return page;
    };
    const tell = async (line) => {
      scene.child.stdin.write(`${line}\n`);
      const answer = await scene.line();
      if (answer.startsWith("error: ")) throw new Error(`${line}: ${answer}`);
      return answer;
    };
    await play({ open, tell, problems, browser, address });
  } finally {
    await browser?.close();
    for (const program of running.reverse()) await program.end();
  }
}

// eventually waits until check returns what is true.
export async function eventually(what, check) {
  const until = Date.now() + patience;
  for (;;) {
    const got = await check();
    if (got) return got;
    if (Date.now() > until) throw new Error(`not within ${patience / 1000} s: ${what}`);
    await new Promise((done) => setTimeout(done, 200));
  }
}

// edge is what the graph itself, not the list, shows of an edge.
export const edge = (page, id) => page.evaluate((id) => window.mapGraph?.edge(id) ?? null, id);

// isRed reports whether an edge is red in the picture.
export const isRed = (page, id) => page.evaluate((id) => window.mapGraph.colours(id).some(([r, g, b]) => r - g > 75 && r - b > 75), id);

// spotOf is where the middle of an edge is, on the page.
async function spotOf(page, id) {
  return page.evaluate((id) => {
    const { at } = window.mapGraph.edge(id), box = document.getElementById("graph").getBoundingClientRect();
    return { x: box.x + at.x, y: box.y + at.y };
  }, id);
}

// pressEdge clicks an edge of the graph, in its middle.
export async function pressEdge(page, id) {
  const { x, y } = await spotOf(page, id);
  await page.mouse.click(x, y);
}

export async function hoverEdge(page, id) {
  const { x, y } = await spotOf(page, id);
  await page.mouse.move(x - 3, y);
  await page.mouse.move(x, y);
}
