// SPDX-License-Identifier: Apache-2.0

// Arranging: from a worker's graph to positions, the same for the same graph. The members
// of a group are arranged by their own edges; then the groups, as discs, by the edges
// between them.
import { forceCollide, forceLink, forceManyBody, forceSimulation, forceX, forceY } from "d3-force";

const apart = 44; // half of what two workloads keep between them: their labels need it

export function arrangeForever() {
  self.onmessage = ({ data: { nodes, edges, turn } }) => self.postMessage({ places: arrange(nodes, edges), turn });
}

export function arrange(nodes, edges) {
  const groups = new Map(), groupOf = new Map();
  for (const { id, group } of nodes) {
    if (!groups.has(group)) groups.set(group, { id: group, members: [], edges: [] });
    groups.get(group).members.push({ id });
    groupOf.set(id, group);
  }
  const between = new Map();
  for (const { source, target } of edges) {
    const from = groupOf.get(source), to = groupOf.get(target);
    if (from === to) groups.get(from).edges.push({ source, target });
    else {
      const key = from < to ? `${from}\n${to}` : `${to}\n${from}`;
      between.set(key, (between.get(key) ?? 0) + 1);
    }
  }
  for (const group of groups.values()) {
    settle(group.members, group.edges, { radius: () => apart, repel: -160, pull: 0.09, rounds: 160 });
    group.radius = apart + 14 + Math.max(...group.members.map((m) => Math.hypot(m.x, m.y)));
  }
  const discs = [...groups.values()];
  const links = [...between].map(([key, weight]) => ({ source: key.split("\n")[0], target: key.split("\n")[1], weight }));
  settle(discs, links, { radius: (d) => d.radius + 26, repel: -30, pull: 0.06, rounds: 300 });
  const places = {};
  for (const group of discs) {
    for (const m of group.members) places[m.id] = { x: group.x + m.x, y: group.y + m.y };
  }
  return places;
}

function settle(nodes, links, { radius, repel, pull, rounds }) {
  const most = Math.max(1, ...links.map((l) => l.weight ?? 1));
  forceSimulation(nodes)
    .force("link", forceLink(links).id((n) => n.id).distance((l) => radius(l.source) + radius(l.target) + 20).strength((l) => 0.12 * (l.weight ?? 1) / most))
    .force("repel", forceManyBody().strength(repel).distanceMax(600))
    .force("collide", forceCollide(radius).strength(0.9).iterations(3))
    .force("x", forceX().strength(pull * 0.8))
    .force("y", forceY().strength(pull * 1.2)) // screens are wide
    .stop()
    .tick(rounds);
}
