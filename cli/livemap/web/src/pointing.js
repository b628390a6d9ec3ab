// SPDX-License-Identifier: Apache-2.0

// What is pointed at: by the pointer on the graph or in the list of edges, by the focus in
// that list, or by keys from edge to edge.
import * as view from "./graph.js";
import { inOrder } from "./panels.js";
import { edgeSays, edgeTip, fillTip, hideSoon, hideTip, makeTip, showTip, tipIsShown, workloadTip } from "./tip.js";

const $ = (id) => document.getElementById(id);

let at = "", graphNow, edgesNow;

// followPointer returns what the graph calls with what the pointer is at. graph and edges
// return what is on the map now.
export function followPointer(graph, edges) {
  [graphNow, edgesNow] = [graph, edges];
  makeTip(() => {
    at = "";
    view.point("");
  });
  const list = $("panel-edges");
  const ofRow = (event) => event.target.closest?.("[data-edge]")?.dataset.edge;
  for (const kind of ["focusin", "mouseover"]) list.addEventListener(kind, (event) => ofRow(event) && show(ofRow(event)));
  for (const kind of ["focusout", "mouseout"]) list.addEventListener(kind, hideSoon);
  return (id, x, y) => id ? show(id, { x, y }) : hideSoon();
}

function contentOf(id) {
  if (!id.startsWith("w:")) {
    const e = edgesNow().get(id);
    return e && edgeTip(e);
  }
  return workloadTip(id.slice(2), graphNow().workloads.find((w) => w.id === id.slice(2)));
}

function show(id, place) {
  const content = contentOf(id), seen = view.point(id);
  at = id;
  if (content && seen) showTip(content, place ?? seen);
}

// pointAgain tells what happens now of what is pointed at.
export function pointAgain() {
  const content = at && contentOf(at);
  if (content) fillTip(content);
}

// keyOfGraph goes to the next edge, or to the one before, or selects it; false: key does
// nothing.
export function keyOfGraph(key, onSelect) {
  if (key === "Enter" && at) onSelect(at);
  else if (key === "n" || key === "p") step(key === "n" ? 1 : -1);
  else return false;
  return true;
}

function step(by) {
  const all = inOrder(graphNow());
  if (!all.length) return;
  const now = all.findIndex((e) => e.id === at);
  const e = all[now < 0 ? (by > 0 ? 0 : all.length - 1) : (now + by + all.length) % all.length];
  const place = view.point(e.id);
  if (place) view.reveal(place);
  show(e.id);
  $("said").textContent = edgeSays(e);
}

// letGo closes the tip; false: there is none.
export function letGo() {
  if (!tipIsShown()) return false;
  hideTip();
  return true;
}
