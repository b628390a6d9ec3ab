// SPDX-License-Identifier: Apache-2.0

// The graph, on a canvas. What it shows stands in the list of edges, too.
import cytoscape from "cytoscape";
import { chosen, showsEdge, showsWorkload, spaceOf } from "./state.js";
import { stateWord } from "./words.js";

const many = 400; // edges, from which on they are drawn in the cheaper way

let cy, onSelect, worker;
let turn = 0; // of arranging: an answer to an older question is no news
const places = new Map(); // by group and id: where a workload stood last

export function makeGraph(container, selected) {
  onSelect = selected;
  cy = cytoscape({
    container, pixelRatio: 1, textureOnViewport: true, hideLabelsOnViewport: true, minZoom: 0.05, maxZoom: 3, selectionType: "single",
    boxSelectionEnabled: false, autounselectify: true, style: style(), layout: { name: "preset" },
  });
  cy.on("tap", (event) => {
    const target = event.target;
    if (target === cy) onSelect("");
    else if (target.isEdge()) onSelect(target.id());
    else if (!target.isParent()) onSelect(`w:${target.id()}`);
  });
  cy.on("dragfree", "node", (event) => remember(event.target));
  worker = new Worker("/map.js");
  worker.onmessage = ({ data }) => data.turn === turn && place(data.places);
  return cy;
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function style() {
  const c = Object.fromEntries(["--front", "--node", "--node-text", "--box", "--box-line", "--locked", "--plaintext", "--refused", "--idle", "--outside", "--back", "--focus"].map((n) => [n, colour(n)]));
  const line = (name, shape, extra = {}) => ({ "line-color": c[name], "target-arrow-color": c[name], "mid-target-arrow-color": c[name], "mid-target-arrow-shape": shape, ...extra });
  return [
    { selector: "node", style: { width: 26, height: 26, "background-color": c["--node"], label: "data(label)", color: c["--node-text"], "font-size": 11, "text-valign": "bottom", "text-margin-y": 4, "min-zoomed-font-size": 7, "text-outline-width": 2, "text-outline-color": c["--back"] } },
    { selector: "node.outside", style: { shape: "diamond", "background-color": c["--outside"] } },
    { selector: "node.off", style: { "background-opacity": 0.35, "border-width": 2, "border-color": c["--idle"], "border-style": "dashed" } },
    { selector: "node.bad", style: { "border-width": 4, "border-color": c["--refused"] } },
    { selector: ":parent", style: { shape: "round-rectangle", "background-color": c["--box"], "background-opacity": 0.8, "border-width": 1, "border-color": c["--box-line"], label: "data(label)", color: c["--front"], "text-valign": "top", "text-margin-y": -4, "font-size": 13, "font-weight": 600, padding: 18 } },
    { selector: "edge", style: { width: "data(width)", "curve-style": "bezier", "control-point-step-size": 30, "arrow-scale": 0.9, "target-arrow-shape": "triangle", "overlay-padding": 4, opacity: 0.9 } },
    { selector: "edge.cheap", style: { "curve-style": "haystack", "haystack-radius": 0.3 } },
    { selector: "edge.locked", style: line("--locked", "none") },
    { selector: "edge.plaintext", style: line("--plaintext", "none", { "line-style": "dashed", "line-dash-pattern": [7, 4] }) },
    { selector: "edge.refused", style: line("--refused", "tee", { label: "data(label)", color: c["--refused"], "font-size": 11, "font-weight": 700, "text-background-color": c["--back"], "text-background-opacity": 0.9, "text-background-padding": 2, "min-zoomed-font-size": 8, "z-index": 9 }) },
    { selector: "edge.idle", style: line("--idle", "none", { width: 1, opacity: 0.55 }) },
    { selector: "edge.idle.plaintext", style: { "line-style": "dashed" } },
    { selector: "edge.selected", style: { "underlay-color": c["--focus"], "underlay-opacity": 0.35, "underlay-padding": 5 } },
    { selector: "node.selected", style: { "underlay-color": c["--focus"], "underlay-opacity": 0.35, "underlay-padding": 8 } },
    { selector: ".faded", style: { opacity: 0.12 } },
    { selector: ".hidden", style: { display: "none" } },
  ];
}

export const restyle = () => cy.style(style());

function groupOf(w) {
  if (chosen.group !== "node") return w.namespace;
  return w.nodes.length === 1 ? w.nodes[0] : "several nodes";
}

// elementsOf is all of a graph: boxes, workloads, clients that are none, edges.
function elementsOf(graph) {
  const nodes = new Map(), boxes = new Set();
  for (const w of graph.workloads) {
    boxes.add(groupOf(w));
    const classes = [w.intended === 0 ? "off" : "", w.intended > w.verified || w.problems && w.intended ? "bad" : ""].join(" ");
    nodes.set(w.id, { data: { id: w.id, label: w.name, parent: `box:${groupOf(w)}` }, classes });
  }
  for (const e of graph.edges) {
    for (const id of [e.from, e.to]) {
      if (nodes.has(id)) continue;
      const box = spaceOf(id) && chosen.group === "namespace" ? spaceOf(id) : "outside the mesh";
      boxes.add(box);
      nodes.set(id, { data: { id, label: id.replace(/^spiffe:\/\/[^/]+/, ""), parent: `box:${box}` }, classes: "outside" });
    }
  }
  const all = [...boxes].sort().map((label) => ({ data: { id: `box:${label}`, label } }));
  all.push(...nodes.values());
  for (const e of graph.edges) {
    all.push({ data: { id: e.id, source: e.from, target: e.to, ...look(e) }, classes: kindOf(e, graph.edges.length) });
  }
  return all;
}

const look = (e) => ({ width: e.active ? 1.5 + Math.min(4.5, Math.log10(1 + e.bytes / 100)) : 1, label: e.refused ? `✕ ${e.refused}` : "" });

const kindOf = (e, count) => `${e.state} ${stateWord(e)} ${count > many ? "cheap" : ""}`;

// show puts a graph in the place of the one before. What was there stays where it is.
export function show(graph) {
  const elements = elementsOf(graph);
  const ids = new Set(elements.map((e) => e.data.id));
  let fresh = 0;
  cy.batch(() => {
    cy.elements().filter((e) => !ids.has(e.id())).remove();
    const added = [];
    for (const e of elements) {
      const known = cy.getElementById(e.data.id);
      if (known.empty()) {
        added.push(e);
        if (e.data.parent && !places.has(key(e.data.id))) fresh++;
        continue;
      }
      known.data(e.data);
      known.classes(e.classes ?? "").removeScratch("kind");
      if (e.data.parent && known.parent().id() !== e.data.parent) known.move({ parent: e.data.parent });
    }
    cy.add(added);
    grid();
  });
  filter(graph);
  if (fresh > 0) arrange(fresh < cy.nodes().length / 4);
  window.mapGraph = cy; // for tests, and for whoever is curious
}

// tick shows what happens on edges; those that are not named are idle.
export function tick(edges) {
  const count = cy.edges().length;
  cy.batch(() => {
    cy.edges().forEach((known) => {
      const e = edges.get(known.id());
      if (!e) return;
      const kind = kindOf(e, count), next = look(e);
      if (known.scratch("kind") !== kind) {
        const kept = ["selected", "faded", "hidden"].filter((name) => known.hasClass(name));
        known.classes([kind, ...kept].join(" ")).scratch("kind", kind);
      }
      if (known.data("label") !== next.label || Math.abs(known.data("width") - next.width) > 0.75) known.data(next);
    });
  });
}

export function filter(graph) {
  const of = new Map(graph.workloads.map((w) => [w.id, w]));
  const edges = new Set(graph.edges.filter((e) => showsEdge(e, of)).map((e) => e.id));
  const nodes = new Set(graph.workloads.filter(showsWorkload).map((w) => w.id));
  for (const e of graph.edges) {
    if (edges.has(e.id)) nodes.add(e.from).add(e.to);
  }
  cy.batch(() => {
    cy.edges().forEach((e) => void e.toggleClass("hidden", !edges.has(e.id())));
    cy.nodes().forEach((n) => {
      if (!n.isParent()) n.toggleClass("hidden", !nodes.has(n.id()));
    });
    cy.nodes(":parent").forEach((box) => void box.toggleClass("hidden", box.children().every((n) => n.hasClass("hidden"))));
  });
  return edges.size + nodes.size;
}

export function select(id) {
  cy.batch(() => {
    cy.elements().removeClass("selected faded");
    const one = id ? cy.getElementById(id.replace(/^w:/, "")) : cy.collection();
    if (one.empty()) return;
    one.addClass("selected");
    const near = one.isEdge() ? one.union(one.connectedNodes()) : one.closedNeighborhood();
    cy.elements().difference(near.union(near.parents())).filter((e) => !e.isParent?.()).addClass("faded");
  });
}

const key = (id) => `${chosen.group} ${id}`;
const remember = (n) => n.isParent() ? n.children().forEach((c) => void places.set(key(c.id()), { ...c.position() })) : places.set(key(n.id()), { ...n.position() });

// grid gives what is new a place: in rows, each group in a square of its own.
function grid() {
  const boxes = cy.nodes().filter((n) => n.isParent());
  const across = Math.ceil(Math.sqrt(boxes.length));
  const size = 90 * Math.ceil(Math.sqrt(Math.max(1, ...boxes.map((b) => b.children().length)))) + 80;
  boxes.forEach((box, i) => {
    const children = box.children(), side = Math.ceil(Math.sqrt(children.length));
    children.forEach((n, j) => {
      const at = places.get(key(n.id())) ?? { x: (i % across) * size + (j % side) * 90, y: Math.floor(i / across) * size + Math.floor(j / side) * 80 };
      n.position(at);
      places.set(key(n.id()), { ...at });
    });
  });
}

// arrange has the worker find better places. If few are new, those of the others hold.
export function arrange(fewNew) {
  if (fewNew) return;
  const nodes = cy.nodes(":visible").filter((n) => !n.isParent()).map((n) => ({ id: n.id(), group: n.parent().id() }));
  const edges = cy.edges(":visible").map((e) => ({ source: e.source().id(), target: e.target().id() }));
  worker.postMessage({ nodes, edges, turn: ++turn });
}

function place(found) {
  cy.batch(() => {
    for (const [id, at] of Object.entries(found)) {
      const n = cy.getElementById(id);
      if (n.nonempty()) {
        n.position(at);
        places.set(key(id), at);
      }
    }
  });
  cy.fit(cy.elements(":visible"), 40);
  document.getElementById("graph").dataset.arranged = String(turn);
}

export const zoom = (by) => cy.zoom({ level: cy.zoom() * by, renderedPosition: { x: cy.width() / 2, y: cy.height() / 2 } });
export const pan = (x, y) => cy.panBy({ x, y });
export const fit = () => cy.fit(cy.elements(":visible"), 40);
