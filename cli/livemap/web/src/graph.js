// SPDX-License-Identifier: Apache-2.0

// The graph: what is seen of it, and what is done to it with pointer and keys. A worker paints
// it, somewhat larger than what is seen. While it is moved the browser moves that picture; it
// is painted anew when it comes to rest, or when its edge comes into view.
import { drag } from "d3-drag";
import { select as element } from "d3-selection";
import { zoom as zooming, zoomIdentity } from "d3-zoom";
import { distance, radius, way } from "./geometry.js";
import * as scenes from "./scene.js";
import { chosen } from "./state.js";

const { scene } = scenes;
const margin = 0.2; // of what is seen, on each side
const rest = 120; // milliseconds without a move
const colourNames = ["--front", "--node", "--node-text", "--box", "--box-line", "--locked", "--plaintext", "--refused", "--idle", "--outside", "--back", "--focus"];

let box, canvas, arranger, painter, gestures, listener;
let view = zoomIdentity, size = { width: 1, height: 1 };
let painted = null; // the view of the picture that is seen
let painting = false, again = false, shape = true; // shape: the painter lacks what changes seldom
let colours = {}, resting = 0, frame = 0, pointer = null, at = "";
let turn = 0; // of arranging: an answer to an older question is no news
let labelled = [];

// makeGraph draws in a container. listen has selected(id) and pointed(id, x, y): ids of edges,
// w: and workloads, or empty.
export function makeGraph(container, listen) {
  box = container;
  listener = listen;
  canvas = document.createElement("canvas");
  box.append(canvas);
  readColours();
  arranger = new Worker("/map.js", { name: "arranger" });
  arranger.onmessage = ({ data }) => data.turn === turn && place(data.places);
  painter = new Worker("/map.js", { name: "painter" });
  painter.onmessage = ({ data }) => take(data);
  gestures = zooming().scaleExtent([0.05, 4]).extent(() => [[0, 0], [size.width, size.height]]).on("zoom", ({ transform }) => look(transform)).on("end", refresh);
  element(box).call(dragging()).call(gestures).on("dblclick.zoom", null);
  box.addEventListener("click", (event) => listener.selected(hit(...local(event))));
  box.addEventListener("pointermove", (event) => {
    pointer = event;
    frame ||= requestAnimationFrame(hover);
  });
  box.addEventListener("pointerleave", () => {
    pointer = null;
    if (at) listener.pointed("", 0, 0);
  });
  new ResizeObserver(([entry]) => {
    size = { width: Math.max(1, entry.contentRect.width), height: Math.max(1, entry.contentRect.height) };
    refresh();
  }).observe(box);
  window.mapGraph = forTests;
}

function readColours() {
  const style = getComputedStyle(document.documentElement);
  colours = Object.fromEntries(colourNames.map((n) => [n, style.getPropertyValue(n).trim()]));
}

export function restyle() {
  readColours();
  refresh();
}

// refresh has the picture painted anew. Of those that are asked for meanwhile there is one.
function refresh() {
  clearTimeout(resting);
  if (painting) {
    again = true;
    return;
  }
  painting = true;
  again = false;
  const mx = Math.round(size.width * margin), my = Math.round(size.height * margin), ratio = Math.min(2, devicePixelRatio);
  painter.postMessage({
    shape: shape ? { labels: scene.nodes.map((n) => n.label), identities: scene.edges.map((e) => e.identities), ends: scene.ends, kinds: scene.kinds, bent: scene.bent } : undefined,
    now: { at: scene.at, nodeFlags: scene.nodeFlags, look: scene.look, width: scene.width, edgeFlags: scene.edgeFlags, counts: scene.counts, boxes: scene.boxes.map(({ label, depth, bounds }) => ({ label, depth, bounds })) },
    view: { x: view.x + mx, y: view.y + my, k: view.k, width: size.width + 2 * mx, height: size.height + 2 * my, ratio, mx, my }, colours,
  });
  shape = false;
}

function take({ bitmap, view: of, labels, took }) {
  if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) Object.assign(canvas, { width: bitmap.width, height: bitmap.height });
  canvas.getContext("bitmaprenderer").transferFromImageBitmap(bitmap);
  Object.assign(canvas.style, { width: `${of.width}px`, height: `${of.height}px`, left: `${-of.mx}px`, top: `${-of.my}px` });
  painted = of;
  labelled = labels;
  box.dataset.painted = took.toFixed(1);
  shift();
  painting = false;
  if (again) refresh();
}

// shift moves the picture to where it would be seen now.
function shift() {
  if (!painted) return;
  const s = view.k / painted.k;
  canvas.style.transform = `translate(${painted.mx + view.x - s * painted.x}px, ${painted.my + view.y - s * painted.y}px) scale(${s})`;
}

function look(next) {
  view = next;
  shift();
  clearTimeout(resting);
  if (!painted) return;
  const s = view.k / painted.k, left = view.x - s * painted.x, top = view.y - s * painted.y;
  const bare = left > 0 || top > 0 || left + s * painted.width < size.width || top + s * painted.height < size.height;
  if (bare || s > 2) refresh();
  else resting = setTimeout(refresh, rest);
}

const local = (event) => {
  const rect = box.getBoundingClientRect();
  return [event.clientX - rect.left, event.clientY - rect.top];
};

// hit is what is at a place of what is seen: w: and a workload, an edge, or nothing.
function hit(x, y) {
  const node = hitNode(x, y);
  if (node >= 0) return `w:${scene.nodes[node].id}`;
  let best = "", least = 7;
  for (let i = 0; i < scene.edges.length; i++) {
    if (scene.edgeFlags[i] & scenes.hidden) continue;
    const d = distance(wayOf(i), x, y);
    if (d < least) [best, least] = [scene.edges[i].id, d];
  }
  return best;
}

function wayOf(i) {
  const [from, to] = [scene.ends[2 * i], scene.ends[2 * i + 1]].map((n) => view.apply([scene.at[2 * n], scene.at[2 * n + 1]]));
  return way(...from, ...to, view.k, scene.bent);
}

function hitNode(x, y) {
  const [wx, wy] = view.invert([x, y]), reach = Math.max(radius, 7 / view.k);
  return scene.nodes.findIndex((_, i) => !(scene.nodeFlags[i] & scenes.hidden) && Math.hypot(scene.at[2 * i] - wx, scene.at[2 * i + 1] - wy) < reach);
}

function hover() {
  frame = 0;
  if (!pointer || pointer.buttons) return;
  const [x, y] = local(pointer), id = hit(x, y);
  box.classList.toggle("over", id !== "");
  if (id !== at) listener.pointed(id, x, y);
}

// point marks what is pointed at, and returns where it is seen; null: it is not.
export function point(id) {
  if (id !== at) {
    at = id;
    scenes.point(id);
    refresh();
  }
  const edge = scene.edgeOf.get(id), node = scene.nodeOf.get(id.replace(/^w:/, ""));
  if (edge !== undefined && !(scene.edgeFlags[edge] & scenes.hidden)) {
    const w = wayOf(edge);
    return { x: w.mx, y: w.my };
  }
  if (node === undefined) return null;
  const [x, y] = view.apply([scene.at[2 * node], scene.at[2 * node + 1]]);
  return { x, y };
}

// show brings a place into what is seen.
export function reveal({ x, y }) {
  if (x < 20 || y < 20 || x > size.width - 20 || y > size.height - 20) pan(size.width / 2 - x, size.height / 2 - y);
}

// dragging moves a workload, or a box by its name.
function dragging() {
  const subject = (event) => {
    const [x, y] = [event.x, event.y], node = hitNode(x, y);
    if (node >= 0) return { x, y, members: [node] };
    const [wx, wy] = view.invert([x, y]);
    const of = scene.boxes.findLast((b) => b.bounds && wx > b.bounds.x0 && wx < b.bounds.x1 && wy > b.bounds.y0 - 12 && wy < b.bounds.y0 + 24);
    return of ? { x, y, members: of.members } : null;
  };
  return drag().container(() => box).clickDistance(4).subject(subject).on("drag", ({ dx, dy, subject: { members } }) => {
    scenes.move(Object.fromEntries(members.map((i) => [scene.nodes[i].id, { x: scene.at[2 * i] + dx / view.k, y: scene.at[2 * i + 1] + dy / view.k }])));
    refresh();
  });
}

// show puts a graph in the place of the one before.
export function show(graph) {
  const fresh = scenes.put(graph);
  scenes.point(at);
  shape = true;
  filter(graph);
  if (fresh > 0 && fresh >= scene.nodes.length / 4) arrange();
}

export function tick(edges) {
  scenes.happen(edges);
  refresh();
}

export function filter(graph) {
  const left = scenes.filter(graph);
  refresh();
  return left;
}

export function select(id) {
  scenes.select(id);
  refresh();
}

// arrange has a worker find better places.
export function arrange() {
  const seen = (flags) => (_, i) => !(flags[i] & scenes.hidden);
  const nodes = scene.nodes.filter(seen(scene.nodeFlags)).map(({ id, path }) => ({ id, path }));
  const edges = scene.edges.filter(seen(scene.edgeFlags)).map((e) => ({ source: e.from, target: e.to }));
  arranger.postMessage({ nodes, edges, turn: ++turn });
}

function place(found) {
  scenes.move(found);
  fit();
  refresh();
  box.dataset.arranged = String(turn);
}

export const zoom = (by) => gestures.scaleBy(element(box), by);
export const pan = (x, y) => gestures.translateBy(element(box), x / view.k, y / view.k);

export function fit(padding = 40) {
  const all = scenes.boundsOfAll();
  if (!all) return;
  const wide = all.x1 - all.x0, high = all.y1 - all.y0;
  const k = Math.max(0.05, Math.min(2, (size.width - 2 * padding) / wide, (size.height - 2 * padding) / high));
  gestures.transform(element(box), zoomIdentity.translate((size.width - wide * k) / 2 - all.x0 * k, (size.height - high * k) / 2 - all.y0 * k).scale(k));
}

// forTests says what is on the graph, for tests and for whoever is curious.
const forTests = {
  nodes: () => scene.nodes.map((n) => n.id),
  edges: () => scene.edges.map((e, i) => ({ id: e.id, look: scenes.looks[scene.look[i]] })),
  boxes: () => scene.boxes.map(({ id, depth, bounds }) => ({ id, depth, bounds })),
  node: (id) => scene.nodeOf.has(id) ? { path: scene.nodes[scene.nodeOf.get(id)].path, group: chosen.group } : null,
  edge(id) {
    const i = scene.edgeOf.get(id);
    if (i === undefined) return null;
    const look = scenes.looks[scene.look[i]], w = wayOf(i);
    return { look, shown: !(scene.edgeFlags[i] & scenes.hidden), pointed: Boolean(scene.edgeFlags[i] & scenes.pointed), labelled: labelled.includes(i), at: { x: w.mx, y: w.my } };
  },
  // colours are those of some pixels at an edge of the picture, as [red, green, blue].
  colours(id) {
    if (!painted) return [];
    const copy = new OffscreenCanvas(canvas.width, canvas.height), ctx = copy.getContext("2d", { willReadFrequently: true }), w = wayOf(scene.edgeOf.get(id)), s = view.k / painted.k;
    ctx.drawImage(canvas, 0, 0);
    return [0.2, 0.3, 0.7, 0.8].flatMap((t) => {
      const [x, y] = w.curved ? [(1 - t) ** 2 * w.ax + 2 * t * (1 - t) * w.cx + t * t * w.bx, (1 - t) ** 2 * w.ay + 2 * t * (1 - t) * w.cy + t * t * w.by] : [w.ax + t * (w.bx - w.ax), w.ay + t * (w.by - w.ay)];
      const px = ((x - view.x) / s + painted.x) * painted.ratio, py = ((y - view.y) / s + painted.y) * painted.ratio;
      const { data } = ctx.getImageData(Math.round(px) - 2, Math.round(py) - 2, 4, 4); // a line may be thin
      return Array.from({ length: 16 }, (_, i) => [...data.slice(4 * i, 4 * i + 3)]);
    });
  },
  fit,
};
