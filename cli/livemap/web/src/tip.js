// SPDX-License-Identifier: Apache-2.0

// The tip beside what is pointed at, by pointer or keys: who talks to whom, proved by which
// identities. It stays while the pointer is on it, and goes with Esc.
import { bytes, edgeName, el, rate, stateText, stateWord } from "./words.js";

const linger = 250; // milliseconds, in which a pointer reaches the tip
const $ = (id) => document.getElementById(id);

let going = 0, onGone;

export function makeTip(gone) {
  onGone = gone;
  $("tip").addEventListener("pointerenter", stay);
  $("tip").addEventListener("pointerleave", hideSoon);
}

function stay() {
  clearTimeout(going);
  going = 0;
}

export const tipIsShown = () => !$("tip").hidden;

// showTip puts content beside a place of the stage.
export function showTip(content, { x, y }) {
  stay();
  const tip = $("tip"), stage = $("stage");
  tip.replaceChildren(...content);
  const right = x > stage.clientWidth / 2, below = y < stage.clientHeight / 2;
  Object.assign(tip.style, {
    left: right ? "auto" : `${x + 14}px`, right: right ? `${stage.clientWidth - x + 14}px` : "auto",
    top: below ? `${y + 14}px` : "auto", bottom: below ? "auto" : `${stage.clientHeight - y + 14}px`,
  });
  tip.hidden = false;
}

export function fillTip(content) {
  if (tipIsShown()) $("tip").replaceChildren(...content);
}

export function hideTip() {
  stay();
  $("tip").hidden = true;
  onGone();
}

export function hideSoon() {
  going ||= setTimeout(hideTip, linger);
}

const proved = (ids) => ids.length ? ids.slice(0, 4).map((id) => el("div", {}, el("code", {}, id))) : "no identity";

export const edgeTip = (e) => [
  el("p", {}, el("strong", {}, edgeName(e)), " ", el("span", { class: `state ${stateWord(e)}` }, stateText[stateWord(e)])),
  el("dl", {}, el("dt", {}, "From"), el("dd", {}, proved(e.sources)), el("dt", {}, "To"), el("dd", {}, proved(e.targets)),
    el("dt", {}, "Now"), el("dd", {}, `${rate(e.opened)} connections/s, ${bytes(e.bytes)}/s${e.refused ? `, ${e.refused} refused in a minute` : ""}`)),
];

export const workloadTip = (id, w) => w ? [
  el("p", {}, el("strong", {}, id)),
  el("p", {}, `${w.pods} pods on ${w.nodes.slice(0, 4).join(", ") || "no node"}${w.nodes.length > 4 ? ` and ${w.nodes.length - 4} more` : ""}; ${w.intended} intended, ${w.verified} verified${w.mode ? `; ${w.mode}` : ""}`),
  ...(w.problems ?? []).slice(0, 2).map((p) => el("p", { class: "bad" }, p)),
] : [el("p", {}, el("strong", {}, id))];

// edgeSays is the tip of an edge for whoever hears it.
export function edgeSays(e) {
  const from = e.sources.slice(0, 4).join(" and ") || "no identity", to = e.targets.slice(0, 4).join(" and ") || "no identity";
  return `${edgeName(e)}: ${stateText[stateWord(e)]}. From ${from}, to ${to}.`;
}
