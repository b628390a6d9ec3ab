// SPDX-License-Identifier: Apache-2.0

// The page: what came from the server, what the viewer chose, and who is told of either.
import * as view from "./graph.js";
import { certificatesPanel, detailsPanel, edgesPanel, enrollmentPanel, refusalsPanel, resetList, tickEdges, walks, whenAsked } from "./panels.js";
import { followPointer, keyOfGraph, letGo, pointAgain } from "./pointing.js";
import { choose, chosen, readAddress } from "./state.js";
import { clock, edgeName } from "./words.js";

const $ = (id) => document.getElementById(id);
const tabs = ["edges", "details", "refusals", "certificates", "enrollment"];

let graph = { workloads: [], edges: [], certificates: [], refusals: [], nodes: [], namespaces: [], omitted: 0, topology: "" };
let byID = new Map(), words = {}, detail = null;
let latest = 0; // the last moment, by the server's clock
let late = 0; // nodes whose refusals come with their answers only
let loading = false, again = false, loaded = 0, sorted = 0;

export async function start() {
  readAddress();
  setTheme(chosen.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
  view.makeGraph($("graph"), { selected: select, pointed: followPointer(() => graph, () => byID) });
  controls();
  keys();
  whenAsked(walk);
  words = await ask("/api/words").catch(() => ({}));
  await load();
  follow();
}

async function ask(path) {
  const answer = await fetch(path, { headers: { Accept: "application/json" } });
  if (answer.status === 401) location.reload();
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

// load fetches the graph of the chosen time. Of questions that come meanwhile the last one
// is asked.
async function load() {
  if (loading) {
    again = true;
    return;
  }
  loading = true;
  try {
    do {
      again = false;
      const next = await ask(chosen.at ? `/api/graph?at=${chosen.at}` : "/api/graph");
      loaded = Date.now();
      take(next);
    } while (again);
  } catch (problem) {
    status(`the map does not answer: ${problem.message}`, true);
  } finally {
    loading = false;
  }
}

function take(next) {
  graph = next;
  byID = new Map(graph.edges.map((e) => [e.id, e]));
  if (!chosen.at && graph.at) latest = Date.parse(graph.at);
  if (!chosen.at) {
    counts ??= byRefusal(graph.refusals); // what comes before the first moment is said, too
    redden();
  }
  options("ns", graph.namespaces);
  options("node", [...new Set(graph.workloads.flatMap((w) => w.nodes))].sort());
  view.show(graph);
  slider();
  refresh();
  if (chosen.sel) refetch();
}

function options(id, names) {
  const select = $(id), known = [...select.options].slice(1).map((o) => o.value);
  if (known.join("\n") === names.join("\n") && select.value === chosen[id]) return;
  select.replaceChildren(new Option("all", ""), ...names.map((n) => new Option(n, n)));
  if (chosen[id] && !names.includes(chosen[id])) select.append(new Option(chosen[id], chosen[id]));
  select.value = chosen[id];
}

// refresh draws the panel that is seen, and filters the graph.
function refresh() {
  $("empty").hidden = view.filter(graph) > 0 || !graph.at;
  view.select(chosen.sel);
  panel();
  headline();
}

function panel() {
  sorted = Date.now();
  const now = chosen.at ? Number(chosen.at) : latest || Date.now();
  switch (chosen.tab) {
    case "details": return detailsPanel(graph, detail, words, select);
    case "refusals": return refusalsPanel(graph, words, select);
    case "certificates": return certificatesPanel(graph, now);
    case "enrollment": return enrollmentPanel(graph, select);
    default: return edgesPanel(graph, select);
  }
}

function headline() {
  if (!graph.at) return status("waiting for the nodes' first answer");
  const silent = graph.silent ? `, ${graph.silent} nodes do not answer` : "";
  const behind = late && !chosen.at ? `, refusals of ${late} nodes come late` : "";
  const sees = graph.all ? "" : `, of ${graph.namespaces.length} namespaces that you may see`;
  status(`${chosen.at ? "as it was" : "live"}: ${graph.workloads.length} workloads, ${graph.edges.length} edges${silent}${behind}${sees}`, graph.silent > 0);
}

function status(text, bad = false) {
  if ($("status").textContent !== text) $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

function follow() {
  const source = new EventSource("/api/live");
  source.addEventListener("tick", (event) => moment(JSON.parse(event.data)));
  source.addEventListener("refused", (event) => news(JSON.parse(event.data)));
  source.onerror = () => {
    status("the connection to the map is lost; it is tried again", true);
    if (source.readyState === EventSource.CLOSED) setTimeout(() => ask("/api/words").then(follow, follow), 3000);
  };
}

// moment takes what happens now. While the viewer is in the past, only the slider grows.
function moment(t) {
  latest = Date.parse(t.at);
  late = t.late;
  graph.from = t.from;
  slider();
  if (chosen.at) return;
  announce(t.refusals);
  graph.refusals = t.refusals;
  graph.at = t.at;
  const idle = { active: false, open: 0, opened: 0, refused: 0, bytes: 0 }, counted = { fresh: 0 };
  const active = new Map(t.edges.map((e) => [e.id, e]));
  for (const e of graph.edges) {
    Object.assign(e, active.get(e.id) ?? idle, counted);
    if (!e.spark.length && !e.bytes) continue;
    if (!e.spark.length) e.spark.push(0);
    if (e.spark.push(e.bytes) > 60) e.spark.shift();
  }
  if (t.topology !== graph.topology || Date.now() - loaded > 60_000) {
    load();
    return;
  }
  redden();
  happened();
  if (chosen.tab === "details") refetch();
}

// news takes what is refused between two moments. What is counted since is in the next one.
function news(n) {
  late = n.late;
  if (chosen.at) return;
  const told = new Set(n.refusals.map((r) => r.id));
  graph.refusals = [...n.refusals, ...graph.refusals.filter((r) => !told.has(r.id))];
  announce(graph.refusals);
  redden();
  happened();
  if (chosen.tab === "details") panel();
}

// redden shows on edges what no node has counted yet.
function redden() {
  const fresh = new Map();
  for (const r of graph.refusals) {
    if (r.fresh) fresh.set(`${r.from}→${r.to}`, (fresh.get(`${r.from}→${r.to}`) ?? 0) + r.fresh);
  }
  for (const [id, n] of fresh) {
    const e = byID.get(id);
    if (e) Object.assign(e, { state: "refused", active: true, refused: e.refused + n - (e.fresh ?? 0), fresh: n });
  }
}

// happened shows what has changed on edges, and in the panel that is seen.
function happened() {
  view.tick(byID);
  pointAgain();
  headline();
  if (chosen.tab === "edges") {
    tickEdges(byID);
    if (Date.now() - sorted > 15_000 && !$("panel-edges").contains(document.activeElement)) panel();
  } else if (chosen.tab !== "details" && !$(`panel-${chosen.tab}`).contains(document.activeElement)) panel();
}

// announce says new refusals to those who do not see the graph.
let counts = null;
const byRefusal = (refusals) => new Map(refusals.map((r) => [r.id, r]));
function announce(refusals) {
  const next = byRefusal(refusals);
  if (counts) {
    const fresh = refusals.filter((r) => !counts.has(r.id));
    if (fresh.length) $("said").textContent = fresh.slice(0, 3).map((r) => `${edgeName(r)} refused: ${r.word}`).join(". ");
  }
  counts = next;
}

function slider() {
  const time = $("time"), from = Date.parse(graph.from ?? graph.at ?? 0);
  if (!latest || !from) return;
  time.min = from;
  time.max = latest;
  time.value = chosen.at || latest;
  const text = chosen.at ? `${clock(Number(chosen.at))}, ${Math.round((latest - chosen.at) / 1000)} s ago` : `now, ${clock(latest)}`;
  $("when").textContent = text;
  time.setAttribute("aria-valuetext", text);
  $("live").setAttribute("aria-pressed", String(!chosen.at));
}

function goTo(ms) {
  choose({ at: ms >= latest - 500 ? "" : String(Math.max(ms, Number($("time").min))) });
  slider();
  load();
}

function select(id) {
  detail = detail?.id === id ? detail : null;
  choose({ sel: id });
  view.select(id);
  if (id) {
    showTab("details");
    refetch();
  } else panel();
}

function refetch() {
  if (!chosen.sel || chosen.sel.startsWith("w:")) {
    if (chosen.tab === "details") panel();
    return;
  }
  const id = chosen.sel;
  ask(`/api/edge?id=${encodeURIComponent(id)}`).then((d) => { if (chosen.sel === id) detail = d; }, () => { if (chosen.sel === id) detail = { id, gone: true }; }).then(() => { if (chosen.tab === "details") panel(); });
}

// walk asks the nodes where a connection as the refused one would end now.
async function walk(r) {
  if (walks.get(r.id)?.asking) return;
  tellWalk(r, { asking: true });
  try {
    const answer = await ask(`/api/why?id=${encodeURIComponent(r.id)}`);
    tellWalk(r, { answer });
    $("said").textContent = `${edgeName(r)}: ${answer.endsAt ? `it ends at ${answer.endsAt}` : answer.verdict}`;
  } catch (problem) {
    tellWalk(r, { problem: problem.message.trim() });
  }
}

function tellWalk(r, state) {
  walks.delete(r.id); // the last one is the youngest
  walks.set(r.id, state);
  if (walks.size > 50) walks.delete(walks.keys().next().value);
  panel();
  document.querySelector(`[role=tabpanel]:not([hidden]) [data-why="${CSS.escape(r.id)}"]`)?.focus({ preventScroll: true });
}

function showTab(name, focus = false) {
  choose({ tab: name });
  for (const t of tabs) {
    const on = t === name;
    $(`tab-${t}`).setAttribute("aria-selected", String(on));
    $(`tab-${t}`).tabIndex = on ? 0 : -1;
    $(`panel-${t}`).hidden = !on;
    if (on && focus) $(`tab-${t}`).focus();
  }
  panel();
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
}

function toggleTheme() {
  const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  setTheme(next);
  choose({ theme: next });
  view.restyle();
}

function controls() {
  const changed = (changes) => {
    choose(changes);
    resetList();
    refresh();
  };
  $("q").value = chosen.q;
  $("q").addEventListener("input", () => changed({ q: $("q").value }));
  for (const id of ["ns", "node"]) $(id).addEventListener("change", () => changed({ [id]: $(id).value }));
  if (![...$("group").options].some((o) => o.value === chosen.group)) choose({ group: "namespace" });
  $("group").value = chosen.group;
  $("group").addEventListener("change", () => {
    choose({ group: $("group").value });
    view.show(graph);
    view.select(chosen.sel);
    view.arrange();
  });
  const states = [...document.querySelectorAll("[name=state]")];
  for (const box of states) {
    box.checked = chosen.show.split(",").includes(box.value);
    box.addEventListener("change", () => changed({ show: states.filter((b) => b.checked).map((b) => b.value).join(",") }));
  }
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("theme").addEventListener("click", toggleTheme);
  $("keys").addEventListener("click", () => $("help").showModal());
  $("zoom-in").addEventListener("click", () => view.zoom(1.3));
  $("zoom-out").addEventListener("click", () => view.zoom(1 / 1.3));
  $("fit").addEventListener("click", () => view.fit());
  $("arrange").addEventListener("click", () => view.arrange());
  $("live").addEventListener("click", () => goTo(Infinity));
  let timer;
  $("time").addEventListener("input", () => {
    const ms = Number($("time").value); // a moment that comes would move the slider back
    choose({ at: ms >= latest - 500 ? "" : String(ms) });
    clearTimeout(timer);
    timer = setTimeout(() => goTo(ms), 150);
  });
  for (const t of tabs) $(`tab-${t}`).addEventListener("click", () => showTab(t));
  showTab(tabs.includes(chosen.tab) ? chosen.tab : "edges");
}

function keys() {
  document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    showTab(tabs[(tabs.indexOf(chosen.tab) + step + tabs.length) % tabs.length], true);
  });
  $("graph").addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] }[event.key];
    if (moves) view.pan(...moves);
    else if (event.key === "+" || event.key === "=") view.zoom(1.3);
    else if (event.key === "-") view.zoom(1 / 1.3);
    else if (event.key === "f") view.fit();
    else if (!keyOfGraph(event.key, select)) return;
    event.preventDefault();
    event.stopPropagation();
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.key !== "Escape") return;
    if (event.key === "/") $("q").focus();
    else if (event.key >= "1" && event.key <= "5") showTab(tabs[event.key - 1], true);
    else if (event.key === "[") goTo((Number(chosen.at) || latest) - 5000);
    else if (event.key === "]") goTo((Number(chosen.at) || latest) + 5000);
    else if (event.key === "l") goTo(Infinity);
    else if (event.key === "t") toggleTheme();
    else if (event.key === "?") $("help").showModal();
    else if (event.key === "Escape" && letGo()) return;
    else if (event.key === "Escape" && !$("help").open && event.target.tagName !== "INPUT") select("");
    else return;
    event.preventDefault();
  });
}
