// SPDX-License-Identifier: Apache-2.0

// Arranging: from a worker's graph to positions, the same for the same graph. The members of
// a group are arranged by their own edges, the innermost groups first; then each group is a
// disc among its neighbours, by the edges between them.
import { forceCollide, forceLink, forceManyBody, forceSimulation, forceX, forceY } from "d3-force";
import { around, roomOf } from "./geometry.js";

const apart = 44; // half of what two workloads keep between them: their labels need it

export function arrangeForever() {
  self.onmessage = ({ data: { nodes, edges, turn } }) => self.postMessage({ places: arrange(nodes, edges), turn });
}

// arrange returns {x, y} by id. A node is {id, path}: the names of its groups, the outermost
// first. An edge is {source, target}.
export function arrange(nodes, edges) {
  const all = makeGroup();
  const chains = new Map(); // of each node: all its groups and itself
  for (const { id, path } of nodes) {
    const chain = [all];
    for (const name of path) {
      const outer = chain.at(-1);
      if (!outer.groups.has(name)) outer.groups.set(name, makeGroup());
      chain.push(outer.groups.get(name));
    }
    const item = { id, radius: apart };
    chain.at(-1).members.push(item);
    chains.set(id, [...chain, item]);
  }
  for (const { source, target } of edges) {
    const from = chains.get(source), to = chains.get(target);
    const at = from.findIndex((g, i) => g !== to[i]);
    if (at > 0) link(from[at - 1], from[at], to[at]);
  }
  settle(all, true);
  const places = {};
  spread(all, 0, 0, places);
  return places;
}

const makeGroup = () => ({ groups: new Map(), members: [], links: new Map(), radius: 0, x: 0, y: 0 });

// link counts an edge between two items of a group, in either direction.
function link(group, from, to) {
  const known = group.links.get(from)?.get(to) ?? group.links.get(to)?.get(from);
  if (known) known.weight++;
  else {
    if (!group.links.has(from)) group.links.set(from, new Map());
    group.links.get(from).set(to, { source: from, target: to, weight: 1 });
  }
}

function settle(group, outermost) {
  for (const inner of group.groups.values()) settle(inner, false);
  const items = [...group.groups.values(), ...group.members], links = [...group.links.values()].flatMap((to) => [...to.values()]);
  const most = Math.max(1, ...links.map((l) => l.weight));
  const room = (item) => item.radius + (item.groups ? 26 : 0);
  forceSimulation(items)
    .force("link", forceLink(links).distance((l) => room(l.source) + room(l.target) + 20).strength((l) => 0.12 * l.weight / most))
    .force("repel", forceManyBody().strength((item) => item.groups ? -30 : -160).distanceMax(600))
    .force("collide", forceCollide(room).strength(0.9).iterations(3))
    .force("x", forceX().strength(outermost ? 0.048 : 0.072))
    .force("y", forceY().strength(outermost ? 0.072 : 0.108)) // screens are wide
    .stop()
    .tick(outermost ? 300 : 160);
  if (group.groups.size) separate(items);
  group.box = around(items.map(boxOf));
  group.radius = 14 + Math.max(...items.map((item) => Math.hypot(item.x, item.y) + room(item)));
}

const boxOf = (item) => item.groups ? { x0: item.box.x0 + item.x, y0: item.box.y0 + item.y, x1: item.box.x1 + item.x, y1: item.box.y1 + item.y } : roomOf(item.x, item.y);

// separate moves boxes that cover each other or a workload: discs that do not may have
// corners that do.
function separate(items) {
  const gap = 24;
  for (let round = 0, moved = true; moved && round < 300; round++) {
    moved = false;
    for (let i = 0; i < items.length; i++) {
      for (let j = i + 1; j < items.length; j++) {
        const a = items[i], b = items[j];
        if (!a.groups && !b.groups) continue;
        const p = boxOf(a), q = boxOf(b);
        const x = Math.min(p.x1, q.x1) - Math.max(p.x0, q.x0) + gap, y = Math.min(p.y1, q.y1) - Math.max(p.y0, q.y0) + gap;
        if (x <= 0.01 || y <= 0.01) continue;
        moved = true;
        if (x < y) apartBy(a, b, "x", x / 2);
        else apartBy(a, b, "y", y / 2);
      }
    }
  }
}

function apartBy(a, b, axis, half) {
  const way = a[axis] <= b[axis] ? half : -half;
  a[axis] -= way;
  b[axis] += way;
}

function spread(group, x, y, places) {
  for (const m of group.members) places[m.id] = { x: x + m.x, y: y + m.y };
  for (const inner of group.groups.values()) spread(inner, x + inner.x, y + inner.y, places);
}
