// SPDX-License-Identifier: Apache-2.0

// Numbers and times for people, and elements of the page.
export function bytes(n) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (n < 1000) return `${n < 10 && unit !== "B" ? n.toFixed(1) : Math.round(n)} ${unit}`;
    n /= 1000;
  }
  return `${Math.round(n)} TB`;
}

export const rate = (n) => (n === 0 ? "0" : n < 10 ? n.toFixed(1) : String(Math.round(n)));

export const clock = (t) => new Date(t).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });

export function left(until, now) {
  let s = Math.round((new Date(until) - now) / 1000);
  if (s < 0) return "expired";
  const parts = [];
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "m"], [1, "s"]]) {
    if (s >= size && parts.length < 2) {
      parts.push(`${Math.floor(s / size)}${unit}`);
      s %= size;
    } else if (parts.length) break;
  }
  return parts.join("") || "0s";
}

// el makes an element. Texts become text nodes: nothing from the mesh is ever HTML.
export function el(name, attributes = {}, ...children) {
  const svg = ["svg", "path", "rect", "title"].includes(name);
  const e = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) e.addEventListener(key.slice(2), value);
    else if (value === true) e.setAttribute(key, "");
    else if (value !== false && value != null) e.setAttribute(key, value);
  }
  e.append(...children.flat().filter((c) => c != null && c !== ""));
  return e;
}

export const stateWord = (e) => (e.active ? e.state : "idle");

export const stateText = { locked: "locked", plaintext: "plaintext", refused: "refused", idle: "idle", unknown: "open" };

// spark draws a line of numbers; label says it in words.
export function spark(numbers, label, kind = "spark", marks = []) {
  const most = Math.max(...numbers, 1);
  const n = Math.max(numbers.length - 1, 1);
  const line = numbers.map((v, i) => `${i ? "L" : "M"}${((i / n) * 100).toFixed(1)} ${(19 - (v / most) * 18).toFixed(1)}`).join("");
  return el("svg", { class: kind, viewBox: "0 0 100 20", preserveAspectRatio: "none", role: "img", "aria-label": label },
    el("path", { d: line || "M0 19" }),
    marks.map((m, i) => (m ? el("rect", { x: (i / n) * 100, y: 0, width: 0.6, height: 20 }) : null)));
}

export const name = (id) => id.replace(/^spiffe:\/\/[^/]+/, "");
export const edgeName = (e) => `${name(e.from)} → ${name(e.to)}`;

// identityLabel is what is written at an edge of the identities of one end.
export const identityLabel = (ids) => ids.length ? `${name(ids[0])}${ids.length > 1 ? ` and ${ids.length - 1} more` : ""}` : "no identity";
