// SPDX-License-Identifier: Apache-2.0

// What the viewer has chosen. It is in the address bar, so that an address can be sent on.
const defaults = { q: "", ns: "", node: "", group: "namespace", show: "locked,plaintext,refused,idle", tab: "edges", sel: "", at: "", theme: "" };

export const chosen = { ...defaults };

export function readAddress() {
  const query = new URLSearchParams(location.search);
  for (const name of Object.keys(defaults)) {
    chosen[name] = query.get(name) ?? defaults[name];
  }
}

export function choose(changes) {
  Object.assign(chosen, changes);
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(chosen)) {
    if (value !== defaults[name]) query.set(name, value);
  }
  const text = query.toString();
  history.replaceState(null, "", text ? `?${text}` : location.pathname);
}

// shows is whether an edge passes the filters; of is the workloads by their ids.
export function showsEdge(e, of) {
  const states = chosen.show.split(",");
  if (!states.includes(e.active ? (e.state === "unknown" ? "locked" : e.state) : "idle")) return false;
  const ends = [e.from, e.to];
  if (chosen.ns && !ends.some((id) => spaceOf(id) === chosen.ns)) return false;
  if (chosen.node && !ends.some((id) => of.get(id)?.nodes.includes(chosen.node))) return false;
  if (!chosen.q) return true;
  const text = [...ends, ...e.sources, ...e.targets].join(" ").toLowerCase();
  return words().every((word) => text.includes(word));
}

export function showsWorkload(w) {
  if (chosen.ns && w.namespace !== chosen.ns) return false;
  if (chosen.node && !w.nodes.includes(chosen.node)) return false;
  return words().every((word) => w.id.toLowerCase().includes(word));
}

const words = () => chosen.q.toLowerCase().split(/\s+/).filter(Boolean);

export function spaceOf(id) {
  const path = id.startsWith("spiffe://") ? /^spiffe:\/\/[^/]+\/ns\/([^/]+)\/sa\//.exec(id) : /^([^/]+)\//.exec(id);
  return path ? path[1] : "";
}
