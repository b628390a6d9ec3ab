// SPDX-License-Identifier: Apache-2.0

// The graph as it is painted: boxes, workloads and edges, where they are and how they look.
// What changes often is in typed arrays: they are sent to the painter each time.
import { around, roomOf } from "./geometry.js";
import { chosen, showsEdge, showsWorkload, spaceOf } from "./state.js";
import { identityLabel, stateWord } from "./words.js";

export const looks = ["idle", "idle plaintext", "unknown", "locked", "plaintext", "refused"]; // in the order in which they are painted
export const hidden = 1, faded = 2, selected = 4, pointed = 8; // bits of flags
export const outside = 1, off = 2, bad = 4; // bits of kinds
const many = 400; // edges, from which on they are straight

const places = new Map(); // by grouping and id: where a workload stood last
const key = (id) => `${chosen.group} ${id}`;

// Of i-th node: nodes[i] is {id, label, path}, at[2i] and at[2i+1] its place. Of the i-th edge:
// edges[i] is {id, from, to, identities}, ends[2i] and ends[2i+1] its nodes.
export const scene = {
  nodes: [], nodeOf: new Map(), at: new Float32Array(0), kinds: new Uint8Array(0), nodeFlags: new Uint8Array(0),
  edges: [], edgeOf: new Map(), ends: new Uint32Array(0), look: new Uint8Array(0), width: new Float32Array(0), edgeFlags: new Uint8Array(0), counts: new Map(),
  boxes: [], bent: true,
};

// pathOf is the boxes that a workload is in, the outermost first.
function pathOf(w) {
  const by = { namespace: w.namespace, node: w.nodes.length === 1 ? w.nodes[0] : "several nodes" };
  return chosen.group.split(",").map((name) => by[name] ?? w.namespace);
}

// pathOfEnd is that of an end that is no workload: nobody knows on which node it is.
function pathOfEnd(id) {
  const space = spaceOf(id);
  return [space && chosen.group.startsWith("namespace") ? space : "outside the mesh"];
}

// put makes the scene of a graph. What was there stays where it is. It returns how many nodes
// are new, and reports whether all are.
export function put(graph) {
  const nodes = new Map();
  for (const w of graph.workloads) {
    const kind = (w.intended === 0 ? off : 0) | (w.intended > w.verified || w.problems && w.intended ? bad : 0);
    nodes.set(w.id, { id: w.id, label: w.name, path: pathOf(w), kind });
  }
  for (const id of graph.edges.flatMap((e) => [e.from, e.to])) {
    if (!nodes.has(id)) nodes.set(id, { id, label: id.replace(/^spiffe:\/\/[^/]+/, ""), path: pathOfEnd(id), kind: outside });
  }
  const s = scene, n = nodes.size, m = graph.edges.length;
  s.nodes = [...nodes.values()];
  s.nodeOf = new Map(s.nodes.map((node, i) => [node.id, i]));
  s.kinds = Uint8Array.from(s.nodes, (node) => node.kind);
  s.nodeFlags = new Uint8Array(n);
  s.edges = graph.edges.map((e) => ({ id: e.id, from: e.from, to: e.to, identities: [identityLabel(e.sources), identityLabel(e.targets)] }));
  s.edgeOf = new Map(s.edges.map((e, i) => [e.id, i]));
  s.ends = Uint32Array.from(s.edges.flatMap((e) => [s.nodeOf.get(e.from), s.nodeOf.get(e.to)]));
  s.edgeFlags = new Uint8Array(m);
  s.look = new Uint8Array(m);
  s.width = new Float32Array(m);
  s.bent = m <= many;
  happen(new Map(graph.edges.map((e) => [e.id, e])));
  makeBoxes();
  const fresh = stand();
  bound();
  return fresh;
}

// happen takes what happens on edges now.
export function happen(edges) {
  scene.counts = new Map();
  scene.edges.forEach(({ id }, i) => {
    const e = edges.get(id);
    if (!e) return;
    const word = stateWord(e);
    scene.look[i] = looks.indexOf(word === "idle" && e.state === "plaintext" ? "idle plaintext" : word);
    scene.width[i] = e.active ? 1.5 + Math.min(4.5, Math.log10(1 + e.bytes / 100)) : 1;
    if (e.refused && word === "refused") scene.counts.set(i, `✕ ${e.refused}`);
  });
}

function makeBoxes() {
  const boxes = new Map();
  scene.nodes.forEach((node, i) => node.path.forEach((label, depth) => {
    const id = node.path.slice(0, depth + 1).join("\n");
    if (!boxes.has(id)) boxes.set(id, { id, label, depth, members: [], inner: depth + 1 < node.path.length, bounds: null });
    const box = boxes.get(id);
    box.members.push(i);
    box.inner ||= depth + 1 < node.path.length;
  }));
  scene.boxes = [...boxes.values()].sort((a, b) => a.depth - b.depth || (a.id < b.id ? -1 : 1));
}

// stand gives what is new a place: below those of its box, or in rows, each box in a square of
// its own. It returns how many are new.
function stand() {
  const leaves = new Map();
  scene.nodes.forEach((node, i) => {
    const id = node.path.join("\n");
    leaves.set(id, [...leaves.get(id) ?? [], i]);
  });
  const across = Math.ceil(Math.sqrt(leaves.size)), most = Math.max(1, ...[...leaves.values()].map((l) => l.length));
  const size = 90 * Math.ceil(Math.sqrt(most)) + 80;
  scene.at = new Float32Array(2 * scene.nodes.length);
  let fresh = 0;
  [...leaves.keys()].sort().forEach((id, box) => {
    const members = leaves.get(id), side = Math.ceil(Math.sqrt(members.length));
    const known = members.map((i) => places.get(key(scene.nodes[i].id))).filter(Boolean);
    const left = known.length ? Math.min(...known.map((p) => p.x)) : (box % across) * size;
    const top = known.length ? Math.max(...known.map((p) => p.y)) + 80 : Math.floor(box / across) * size;
    let row = 0;
    for (const i of members) {
      let place = places.get(key(scene.nodes[i].id));
      if (!place) {
        place = { x: left + (row % side) * 90, y: top + Math.floor(row / side) * 80 };
        places.set(key(scene.nodes[i].id), place);
        row++;
        fresh++;
      }
      scene.at[2 * i] = place.x;
      scene.at[2 * i + 1] = place.y;
    }
  });
  return fresh;
}

// bound makes each box as large as what is seen in it.
export function bound() {
  for (const box of [...scene.boxes].reverse()) { // inner ones first
    const inner = scene.boxes.filter((b) => b.depth === box.depth + 1 && b.bounds && b.id.startsWith(`${box.id}\n`));
    const all = inner.map((b) => b.bounds);
    for (const i of box.members) {
      if (scene.nodeFlags[i] & hidden || scene.nodes[i].path.length > box.depth + 1) continue;
      all.push(roomOf(scene.at[2 * i], scene.at[2 * i + 1]));
    }
    box.bounds = all.length ? around(all) : null;
  }
}

// move puts nodes by their ids at places.
export function move(found) {
  for (const [id, place] of Object.entries(found)) {
    places.set(key(id), { ...place });
    const i = scene.nodeOf.get(id);
    if (i === undefined) continue;
    scene.at[2 * i] = place.x;
    scene.at[2 * i + 1] = place.y;
  }
  bound();
}

const mark = (flags, i, bit, on) => { flags[i] = on ? flags[i] | bit : flags[i] & ~bit; };

// filter hides what the viewer did not choose, and returns how much is left.
export function filter(graph) {
  const of = new Map(graph.workloads.map((w) => [w.id, w]));
  const edges = new Set(graph.edges.filter((e) => showsEdge(e, of)).map((e) => e.id));
  const nodes = new Set(graph.workloads.filter(showsWorkload).map((w) => w.id));
  for (const e of graph.edges) {
    if (edges.has(e.id)) nodes.add(e.from).add(e.to);
  }
  scene.edges.forEach((e, i) => mark(scene.edgeFlags, i, hidden, !edges.has(e.id)));
  scene.nodes.forEach((n, i) => mark(scene.nodeFlags, i, hidden, !nodes.has(n.id)));
  bound();
  return edges.size + nodes.size;
}

// select marks an edge, or w: and a workload, and fades what is not next to it.
export function select(id) {
  const node = scene.nodeOf.get(id.replace(/^w:/, "")), edge = scene.edgeOf.get(id);
  const near = new Set([node]), none = node === undefined && edge === undefined;
  scene.edges.forEach((_, i) => {
    const from = scene.ends[2 * i], to = scene.ends[2 * i + 1], of = i === edge || from === node || to === node;
    if (of) near.add(from).add(to);
    mark(scene.edgeFlags, i, selected, i === edge);
    mark(scene.edgeFlags, i, faded, !none && !of);
  });
  scene.nodes.forEach((_, i) => {
    mark(scene.nodeFlags, i, selected, i === node);
    mark(scene.nodeFlags, i, faded, !none && !near.has(i));
  });
}

// point marks what is pointed at: an edge, or w: and a workload; empty: nothing.
export function point(id) {
  const edge = scene.edgeOf.get(id), node = scene.nodeOf.get(id.replace(/^w:/, ""));
  scene.edgeFlags.forEach((_, i) => mark(scene.edgeFlags, i, pointed, i === edge));
  scene.nodeFlags.forEach((_, i) => mark(scene.nodeFlags, i, pointed, i === node));
}

// boundsOfAll is what is to be seen; null: nothing.
export function boundsOfAll() {
  const all = scene.boxes.filter((b) => b.depth === 0 && b.bounds).map((b) => b.bounds);
  return all.length ? { x0: Math.min(...all.map((b) => b.x0)), y0: Math.min(...all.map((b) => b.y0)), x1: Math.max(...all.map((b) => b.x1)), y1: Math.max(...all.map((b) => b.y1)) } : null;
}
