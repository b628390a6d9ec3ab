// SPDX-License-Identifier: Apache-2.0

// The panels beside the graph. They say in words all that the graph shows.
import { chosen, showsEdge, showsWorkload } from "./state.js";
import { bytes, clock, edgeName, el, left, name, rate, spark, stateText, stateWord } from "./words.js";

const $ = (id) => document.getElementById(id);
const page = 100; // rows of a list at first
let shown = page;

const order = { refused: 0, plaintext: 1, locked: 2, unknown: 3, idle: 4 };

function table(caption, heads, rows) {
  return el("table", {}, el("caption", {}, caption), el("thead", {}, el("tr", {}, heads.map((h) => el("th", { scope: "col" }, h)))), el("tbody", {}, rows));
}

const stateCell = (e) => el("span", { class: `state ${stateWord(e)}` }, stateText[stateWord(e)], !e.active && e.state !== "unknown" ? ` (${stateText[e.state]})` : "");

const sparkOf = (e) => e.spark.length ? spark(e.spark, `Bytes a second: now ${bytes(e.spark.at(-1))}, most ${bytes(Math.max(...e.spark))}`) : "–";

// edgesPanel lists edges. Rows that are there are changed in place, so that the focus and the
// reader stay where they are.
const cells = new Map();

// inOrder are the edges that pass the filters: what is refused first, then plaintext, then by
// bytes.
export function inOrder(graph) {
  const of = new Map(graph.workloads.map((w) => [w.id, w]));
  return graph.edges.filter((e) => showsEdge(e, of)).sort((a, b) => order[stateWord(a)] - order[stateWord(b)] || b.bytes - a.bytes || (a.id < b.id ? -1 : 1));
}

export function edgesPanel(graph, onSelect) {
  const all = inOrder(graph);
  const some = all.slice(0, shown);
  cells.clear();
  const rows = some.map((e) => {
    const row = el("tr", { "data-edge": e.id, "aria-current": chosen.sel === e.id ? "true" : null },
      el("th", { scope: "row" }, el("button", { type: "button", class: "ends", "aria-describedby": "tip", onclick: () => onSelect(e.id) }, el("span", {}, name(e.from)), " ", el("span", {}, `→ ${name(e.to)}`))),
      el("td"), el("td", { class: "number" }), el("td", { class: "number" }), el("td", { class: "number" }), el("td"));
    cells.set(e.id, row);
    fill(e, row);
    return row;
  });
  const more = all.length > some.length ? el("button", { type: "button", id: "more", onclick: () => { shown += page; edgesPanel(graph, onSelect); } }, `Show ${Math.min(page, all.length - some.length)} more`) : null;
  const note = graph.omitted ? el("p", { class: "warn" }, `${graph.omitted} rows or workloads had no room on the map.`) : null;
  const focused = document.activeElement?.closest?.("[data-edge]")?.dataset.edge;
  $("panel-edges").replaceChildren(table(`${all.length} of ${graph.edges.length} edges`, ["From → to", "State", "Conn/s", "Refused/min", "Bytes/s", "Last minutes"], rows), ...[more, note].filter(Boolean));
  if (focused) cells.get(focused)?.querySelector("button").focus({ preventScroll: true });
}

function fill(e, row) {
  const [, state, opened, refused, amount, line] = row.children;
  const text = `${stateWord(e)} ${e.state} ${e.opened} ${e.refused} ${e.bytes} ${e.spark.length}`;
  if (row.dataset.text === text && !e.bytes) return;
  row.dataset.text = text;
  state.replaceChildren(stateCell(e));
  opened.textContent = rate(e.opened);
  refused.textContent = String(e.refused);
  refused.classList.toggle("bad", e.refused > 0);
  amount.textContent = bytes(e.bytes);
  line.replaceChildren(sparkOf(e));
}

// tickEdges fills the rows that are there, some in each frame: all of them at once would
// hold up the graph.
const someRows = 10;
let filling = 0;

export function tickEdges(edges) {
  cancelAnimationFrame(filling);
  const rows = [...cells];
  const some = () => {
    for (const [id, row] of rows.splice(0, someRows)) {
      const e = edges.get(id);
      if (e && row.isConnected) fill(e, row);
    }
    filling = rows.length ? requestAnimationFrame(some) : 0;
  };
  some();
}

export function resetList() {
  shown = page;
}

const pairs = (list) => el("dl", {}, list.filter(([, v]) => v != null && v !== "" && v.length !== 0).flatMap(([k, v]) => [el("dt", {}, k), el("dd", {}, ...[v].flat())]));

// walks are what the nodes answered to whoever asked why, by the refusal: asking, problem or
// answer.
export const walks = new Map();
let onWhy = () => {};
export const whenAsked = (walk) => { onWhy = walk; };

function walkOf(r) {
  const w = walks.get(r.id);
  return el("div", { class: "walk" },
    el("button", { type: "button", "data-why": r.id, "aria-busy": w?.asking ? "true" : null, onclick: () => onWhy(r) }, w?.asking ? "The nodes are asked…" : w ? "Walk it again" : "Walk it: where does it end now?"),
    w?.problem ? el("p", { class: "bad" }, w.problem) : "", w?.answer ? walked(w.answer) : "");
}

function walked(a) {
  const steps = a.steps.map((s) => el("li", { class: s.state.replace(" ", "-") },
    el("strong", {}, `${s.step}: ${s.state}`), s.says ? ` – ${s.says}` : "", s.by ? el("span", { class: "dim" }, ` (${s.by})`) : "",
    ...(s.state === "fault" || s.state === "unknown" ? s.evidence ?? [] : []).map((e) => el("div", { class: "dim" }, e)),
    s.change ? el("div", {}, "Change: ", el("code", {}, s.change)) : "", s.docs ? el("div", { class: "dim" }, s.docs) : ""));
  const end = { carried: "It would be carried now.", refused: `It ends at ${a.endsAt}.`, "not known": "No step faults, and not all of them are proved." }[a.verdict] ?? a.verdict;
  const silent = a.silent ? ` ${a.silent} nodes did not answer.` : "";
  return el("div", {}, el("p", {}, el("strong", { class: a.verdict === "refused" ? "bad" : "" }, end), `${silent} ${a.from} to ${a.to}, at ${clock(a.at)}:`), el("ol", {}, steps));
}

function refusalCard(r, words, onSelect) {
  const word = words[r.word] ?? { means: r.word, hint: "", doc: "" };
  const edge = `${r.from}→${r.to}`;
  return el("article", { class: "card", "data-word": r.word },
    el("p", {}, el("button", { type: "button", class: "link", onclick: () => onSelect(edge) }, edgeName(r)), r.service ? ` (${r.service})` : ""),
    el("p", {}, el("strong", { class: "bad" }, r.word), `: ${word.means}`),
    r.policy ? el("p", {}, "By ", el("code", {}, r.policy)) : "",
    r.error ? el("p", {}, el("code", {}, r.error)) : "",
    word.hint ? el("p", {}, word.hint) : "",
    pairs([
      ["Count", `${r.count}, last at ${clock(r.last)}${""}`], ["Client", [r.source, r.pods?.[0] && ` (${r.pods[0]})`].filter(Boolean).join("")],
      ["Server", [r.destination, r.pods?.[1] && ` (${r.pods[1]})`].filter(Boolean).join("")], ["Told by", r.node], ["Read", word.doc],
    ]), walkOf(r));
}

export function refusalsPanel(graph, words, onSelect) {
  const all = graph.refusals.filter((r) => !chosen.ns || [r.from, r.to].some((id) => id.startsWith(`${chosen.ns}/`)));
  $("panel-refusals").replaceChildren(el("h2", {}, (all.length ? "Last refusals" : "Nothing was refused") + (chosen.at ? `, until ${clock(Number(chosen.at))}` : "")), ...all.slice(0, 100).map((r) => refusalCard(r, words, onSelect)));
}

export function certificatesPanel(graph, now) {
  const rows = graph.certificates.filter((c) => !chosen.ns || c.namespace === chosen.ns).slice(0, 500).map((c) => {
    const life = new Date(c.until) - new Date(c.from), rest = new Date(c.until) - now;
    const kind = !c.until || rest <= 0 || c.problem ? "bad" : rest < life / 4 ? "warn" : "";
    return el("tr", {}, el("th", { scope: "row" }, name(c.identity)), el("td", { class: kind }, c.until ? left(c.until, now) : "none", c.problem ? ` – ${c.problem}` : ""),
      el("td", {}, c.until ? clock(c.until) : ""), el("td", {}, c.nodes.length > 3 ? `${c.nodes.length} nodes` : c.nodes.join(", ")));
  });
  $("panel-certificates").replaceChildren(table("Certificates that nodes hold: the first of each identity to end", ["Identity", "Time left", "Ends at", "On"], rows));
}

export function enrollmentPanel(graph, onSelect) {
  const some = graph.workloads.filter(showsWorkload);
  const sum = (field) => some.reduce((n, w) => n + w[field], 0);
  const rows = some.slice(0, 500).map((w) => el("tr", {}, el("th", { scope: "row" }, el("button", { type: "button", onclick: () => onSelect(`w:${w.id}`) }, w.id)),
    el("td", { class: "number" }, w.pods), el("td", { class: "number" }, w.intended), el("td", { class: w.enrolled < w.intended ? "number bad" : "number" }, w.enrolled),
    el("td", { class: w.verified < w.intended ? "number bad" : "number" }, w.verified), el("td", {}, w.mode ?? "", (w.problems ?? []).map((p) => el("div", { class: w.intended ? "bad" : "dim" }, p)))));
  const nodes = graph.nodes.map((n) => el("tr", {}, el("th", { scope: "row" }, n.name), el("td", { class: n.problem || n.ca !== "signs" ? "bad" : "" }, n.problem || `the CA: ${n.ca}`)));
  $("panel-enrollment").replaceChildren(
    el("p", {}, `${sum("pods")} pods: ${sum("intended")} intended, ${sum("enrolled")} enrolled, ${sum("verified")} verified in the kernel.`),
    table("Workloads", ["Workload", "Pods", "Intended", "Enrolled", "Verified", "Mode, and what is wrong"], rows), nodes.length ? table("Nodes", ["Node", "State"], nodes) : "");
}

export function detailsPanel(graph, detail, words, onSelect) {
  const panel = $("panel-details");
  if (!chosen.sel) {
    panel.replaceChildren(el("p", {}, "Select an edge or a workload, in the graph or in a list."));
    return;
  }
  if (chosen.sel.startsWith("w:")) return workloadDetails(panel, graph, chosen.sel.slice(2), onSelect);
  const e = graph.edges.find((one) => one.id === chosen.sel);
  if (!e) {
    panel.replaceChildren(el("h2", {}, "No such edge"), el("p", {}, `${chosen.sel} is not on the map at this time.`));
    return;
  }
  const say = {
    locked: "Both ends prove who they are: mutual TLS.", plaintext: `Plaintext: ${e.reasons?.join(", ") || "no identity was proved"}.`,
    refused: e.refused ? `${e.refused} connections were refused in the last minute.` : "All that was tried was refused.", unknown: "Nobody knows yet how these connections go.",
  }[e.state];
  const mine = graph.refusals.filter((r) => r.from === e.from && r.to === e.to);
  const d = detail?.id === e.id ? detail : null;
  panel.replaceChildren(
    el("h2", {}, edgeName(e)), el("p", {}, stateCell(e), ` – ${say}`),
    pairs([["From", e.sources.length ? e.sources.map((s) => el("div", {}, s)) : "no identity"], ["To", e.targets.length ? e.targets.map((s) => el("div", {}, s)) : "no identity"],
      ["Now", `${e.open} open, ${rate(e.opened)} connections a second, ${bytes(e.bytes)} a second`], ["Total", `${e.total} connections since the nodes' ztunnels started`]]),
    ...mine.length ? [el("h3", {}, "Why it is refused"), ...mine.slice(0, 10).map((r) => refusalCard(r, words, onSelect))] : [],
    ...d?.gone ? [el("p", { class: "dim" }, "It is not on the map any more.")] : d ? edgeDetail(d) : [el("p", { class: "dim" }, "…")]);
}

function edgeDetail(d) {
  const hour = d.hour.map((p) => p.bytes), refused = d.hour.map((p) => p.refused);
  const total = refused.reduce((a, b) => a + b, 0);
  const verdicts = d.verdicts.map((v) => el("p", {}, `Port ${v.port} of ${v.pod}: `, el("strong", { class: v.allowed === "no" ? "bad" : "" }, v.allowed === "yes" ? "would be allowed" : v.allowed === "no" ? "would be refused" : "open"),
    v.by ? [" by ", el("code", {}, v.by)] : "", v.why ? `: ${v.why}` : "", v.heldBy ? el("span", { class: "dim" }, ` (as ${v.heldBy} holds the policies)`) : ""));
  const rows = d.rows.map((r) => el("tr", {}, el("th", { scope: "row" }, `${r.service || "by address"}${r.port ? `, port ${r.port}` : ""}`), el("td", {}, r.secured ? "locked" : r.reason || "not known"),
    el("td", { class: "number" }, r.open), el("td", { class: "number" }, r.opened), el("td", { class: r.refused ? "bad" : "" }, Object.entries(r.refused ?? {}).map(([w, n]) => `${w} ${n}`).join(", ") || "0"), el("td", { class: "number" }, bytes(r.sent + r.received))));
  return [
    ...verdicts.length ? [el("h3", {}, "A new connection now"), ...verdicts] : [],
    el("h3", {}, "Bytes a second, of the time that is kept"), spark(hour, `Bytes a second: now ${bytes(hour.at(-1) ?? 0)}, most ${bytes(Math.max(0, ...hour))}; ${total} connections refused`, "hour", refused),
    el("p", { class: "dim" }, `Most ${bytes(Math.max(0, ...hour))} a second; ${total} refused, as red lines.`),
    table("Ways, since the nodes' ztunnels started", ["To", "Secured", "Open", "Opened", "Refused", "Bytes"], rows),
  ];
}

function workloadDetails(panel, graph, id, onSelect) {
  const w = graph.workloads.find((one) => one.id === id);
  const edges = graph.edges.filter((e) => e.from === id || e.to === id);
  panel.replaceChildren(el("h2", {}, name(id)),
    w ? pairs([["Nodes", w.nodes.join(", ")], ["Pods", `${w.pods}: ${w.intended} intended, ${w.enrolled} enrolled, ${w.verified} verified`], ["Mode", w.mode && `${w.mode}, by ${w.modeBy}`], ["Problems", (w.problems ?? []).map((p) => el("div", { class: "bad" }, p))]])
      : el("p", {}, id === "(outside)" ? "Clients whom the mesh does not know." : id === "(elsewhere)" ? "What you may not see." : "An identity that comes from no pod of the mesh."),
    el("h3", {}, "Edges"), el("ul", {}, edges.slice(0, 200).map((e) => el("li", {}, el("button", { type: "button", class: "link", onclick: () => onSelect(e.id) }, edgeName(e)), " ", stateCell(e)))));
}
