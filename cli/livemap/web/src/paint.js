// SPDX-License-Identifier: Apache-2.0

// Painting, in a worker: from what is on the map and from where it is looked at to a picture.
import { radius, way } from "./geometry.js";

// As in scene.js.
const hidden = 1, faded = 2, selected = 4, pointed = 8, outside = 1, off = 2, bad = 4;
const fewEdges = 24; // of so many that are seen, each has its identities beside it
const font = "system-ui, sans-serif";

export function paintForever() {
  const canvas = new OffscreenCanvas(1, 1), ctx = canvas.getContext("2d", { alpha: false });
  let shape; // what changes seldom
  self.onmessage = ({ data }) => {
    shape = data.shape ?? shape;
    const { view } = data, width = Math.round(view.width * view.ratio), height = Math.round(view.height * view.ratio);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const began = performance.now();
    const labels = paint(ctx, { ...shape, ...data.now }, view, data.colours);
    const bitmap = canvas.transferToImageBitmap();
    self.postMessage({ bitmap, view, labels, took: performance.now() - began }, [bitmap]);
  };
}

// paint draws all of it, in pixels of the page, and returns the edges whose identities it wrote.
function paint(ctx, s, view, colours) {
  const p = { ctx, s, view, colours, xy: places(s, view), ways: [] };
  ctx.setTransform(view.ratio, 0, 0, view.ratio, 0, 0);
  ctx.fillStyle = colours["--back"];
  ctx.fillRect(0, 0, view.width, view.height);
  ctx.lineJoin = "round";
  s.boxes.forEach((box) => paintBox(p, box));
  paintEdges(p);
  paintNodes(p);
  return paintWords(p);
}

// places are where nodes are in the picture.
function places(s, view) {
  const xy = new Float32Array(s.at.length);
  for (let i = 0; i < xy.length; i += 2) {
    xy[i] = s.at[i] * view.k + view.x;
    xy[i + 1] = s.at[i + 1] * view.k + view.y;
  }
  return xy;
}

function paintBox({ ctx, view, colours }, { label, bounds, depth }) {
  if (!bounds) return;
  const x = bounds.x0 * view.k + view.x, y = bounds.y0 * view.k + view.y, w = (bounds.x1 - bounds.x0) * view.k, h = (bounds.y1 - bounds.y0) * view.k;
  if (x > view.width || y > view.height || x + w < 0 || y + h < 0) return;
  ctx.beginPath();
  ctx.roundRect(x, y, w, h, 8 * Math.min(1, view.k));
  ctx.fillStyle = colours[depth ? "--back" : "--box"];
  ctx.fill();
  ctx.lineWidth = 1;
  ctx.strokeStyle = colours["--box-line"];
  ctx.stroke();
  const size = Math.max(11, Math.min(16, 13 * view.k));
  ctx.font = `600 ${size}px ${font}`;
  ctx.fillStyle = colours["--front"];
  ctx.textAlign = "center";
  ctx.textBaseline = view.k > 0.7 ? "top" : "bottom"; // when there is no room in it, above it
  ctx.fillText(label, x + w / 2, view.k > 0.7 ? y + 5 : y + (depth ? 10 : -2));
}

const styles = [
  { colour: "--idle", alpha: 0.55 }, { colour: "--idle", alpha: 0.55, dash: true }, { colour: "--idle", alpha: 0.9 },
  { colour: "--locked", alpha: 0.9 }, { colour: "--plaintext", alpha: 0.9, dash: true }, { colour: "--refused", alpha: 0.9 },
];

// paintEdges draws edges of one look after those of another, what matters most on top. Those
// that look alike are one path.
function paintEdges(p) {
  const { ctx, s, view, colours, xy } = p, alike = new Map();
  for (let i = 0; i < s.look.length; i++) {
    if (s.edgeFlags[i] & hidden) continue;
    const from = 2 * s.ends[2 * i], to = 2 * s.ends[2 * i + 1];
    const ax = xy[from], ay = xy[from + 1], bx = xy[to], by = xy[to + 1], room = 60 * view.k;
    if (Math.max(ax, bx) < -room || Math.min(ax, bx) > view.width + room || Math.max(ay, by) < -room || Math.min(ay, by) > view.height + room) continue;
    p.ways[i] = way(ax, ay, bx, by, view.k, s.bent);
    const width = Math.round(Math.max(0.7, s.width[i] * Math.min(1.5, view.k)) * 2) / 2 || 0.5;
    const key = (s.look[i] << 8) | (s.edgeFlags[i] & faded ? 0 : 128) | Math.min(127, width * 2);
    if (!alike.has(key)) alike.set(key, { look: s.look[i], width, dim: s.edgeFlags[i] & faded, ways: [] });
    alike.get(key).ways.push(p.ways[i]);
    if (s.edgeFlags[i] & (selected | pointed)) halo(p, p.ways[i], width);
  }
  for (const key of [...alike.keys()].sort((a, b) => a - b)) {
    const { look, width, dim, ways } = alike.get(key), style = styles[look];
    ctx.globalAlpha = dim ? 0.12 : style.alpha;
    ctx.strokeStyle = ctx.fillStyle = colours[style.colour];
    ctx.lineWidth = width;
    ctx.setLineDash(style.dash ? [7, 4] : []);
    for (const w of ways) {
      ctx.beginPath();
      trace(ctx, w);
      ctx.stroke();
    }
    ctx.setLineDash([]);
    arrows(ctx, ways, 4 * Math.min(1.2, view.k) + width);
    if (look === 5) bars(ctx, ways, width);
  }
  ctx.globalAlpha = 1;
}

function trace(ctx, w) {
  ctx.moveTo(w.ax, w.ay);
  if (w.curved) ctx.quadraticCurveTo(w.cx, w.cy, w.bx, w.by);
  else ctx.lineTo(w.bx, w.by);
}

function halo({ ctx, colours }, w, width) {
  ctx.beginPath();
  trace(ctx, w);
  ctx.globalAlpha = 0.35;
  ctx.strokeStyle = colours["--focus"];
  ctx.lineWidth = width + 10;
  ctx.stroke();
}

function arrows(ctx, ways, size) {
  if (size < 2.5) return;
  ctx.beginPath();
  for (const w of ways) {
    const x = w.bx - w.ux * size * 1.6, y = w.by - w.uy * size * 1.6;
    ctx.moveTo(w.bx, w.by);
    ctx.lineTo(x - w.uy * size * 0.7, y + w.ux * size * 0.7);
    ctx.lineTo(x + w.uy * size * 0.7, y - w.ux * size * 0.7);
  }
  ctx.fill();
}

// bars cross what is refused, in its middle: colour alone does not say it.
function bars(ctx, ways, width) {
  ctx.lineWidth = width + 1;
  ctx.beginPath();
  for (const w of ways) {
    const dx = w.bx - w.ax, dy = w.by - w.ay, long = Math.hypot(dx, dy) || 1, half = 5 + width;
    ctx.moveTo(w.mx - dy / long * half, w.my + dx / long * half);
    ctx.lineTo(w.mx + dy / long * half, w.my - dx / long * half);
  }
  ctx.stroke();
}

function paintNodes({ ctx, s, view, colours, xy }) {
  const r = Math.max(2, radius * view.k), words = 11 * view.k >= 7;
  ctx.font = `${11 * Math.min(1.4, view.k)}px ${font}`;
  ctx.textAlign = "center";
  ctx.textBaseline = "top";
  ctx.lineJoin = "round";
  for (let i = 0; i < s.kinds.length; i++) {
    const x = xy[2 * i], y = xy[2 * i + 1], kind = s.kinds[i], flags = s.nodeFlags[i];
    if (flags & hidden || x < -80 || y < -40 || x > view.width + 80 || y > view.height + 40) continue;
    ctx.globalAlpha = flags & faded ? 0.12 : 1;
    if (flags & (selected | pointed)) disc(ctx, x, y, r + 8 * view.k + 2, withAlpha(ctx, 0.35, colours["--focus"]));
    ctx.globalAlpha = (flags & faded ? 0.12 : 1) * (kind & off ? 0.35 : 1);
    ctx.fillStyle = colours[kind & outside ? "--outside" : "--node"];
    ctx.beginPath();
    if (kind & outside) ctx.moveTo(x, y - r), ctx.lineTo(x + r, y), ctx.lineTo(x, y + r), ctx.lineTo(x - r, y), ctx.closePath();
    else ctx.arc(x, y, r, 0, 2 * Math.PI);
    ctx.fill();
    ctx.globalAlpha = flags & faded ? 0.12 : 1;
    if (kind & (off | bad)) {
      ctx.lineWidth = (kind & bad ? 4 : 2) * Math.min(1, view.k) + 0.3;
      ctx.strokeStyle = colours[kind & bad ? "--refused" : "--idle"];
      ctx.setLineDash(kind & bad ? [] : [4, 3]);
      ctx.stroke();
      ctx.setLineDash([]);
    }
    if (words || flags & (selected | pointed)) text({ ctx, colours }, s.labels[i], x, y + r + 3, colours["--node-text"]);
  }
  ctx.globalAlpha = 1;
}

function withAlpha(ctx, alpha, colour) {
  ctx.globalAlpha *= alpha;
  return colour;
}

function disc(ctx, x, y, r, colour) {
  ctx.fillStyle = colour;
  ctx.beginPath();
  ctx.arc(x, y, r, 0, 2 * Math.PI);
  ctx.fill();
}

function text({ ctx, colours }, words, x, y, colour) {
  ctx.lineWidth = 3;
  ctx.strokeStyle = colours["--back"];
  ctx.strokeText(words, x, y);
  ctx.fillStyle = colour;
  ctx.fillText(words, x, y);
}

// paintWords writes counts of refusals, and identities where few edges are seen, as long as
// they do not cover each other. It returns the edges whose identities it wrote.
function paintWords(p) {
  const { ctx, s, view, colours, ways } = p, taken = [], written = [];
  const seen = [];
  ways.forEach((w, i) => { // an array with holes
    if (!(s.edgeFlags[i] & faded) && w.mx > 0 && w.my > 0 && w.mx < view.width && w.my < view.height) seen.push(i);
  });
  ctx.textAlign = "center";
  ctx.textBaseline = "middle";
  const room = (x, y, wide, high) => {
    const one = { x0: x - wide / 2, y0: y - high / 2, x1: x + wide / 2, y1: y + high / 2 };
    if (taken.some((t) => one.x0 < t.x1 && t.x0 < one.x1 && one.y0 < t.y1 && t.y0 < one.y1)) return false;
    taken.push(one);
    return true;
  };
  const first = (a, b) => (s.edgeFlags[b] & selected) - (s.edgeFlags[a] & selected) || s.look[b] - s.look[a] || a - b;
  ctx.font = `700 12px ${font}`;
  if (view.k > 0.6) {
    for (const [i, count] of s.counts) {
      if (ways[i] && !(s.edgeFlags[i] & faded) && room(ways[i].mx, ways[i].my - 18, ctx.measureText(count).width + 6, 16)) text(p, count, ways[i].mx, ways[i].my - 18, colours["--refused"]);
    }
  }
  ctx.font = `11px ${font}`;
  for (const i of seen.sort(first)) {
    if (seen.length > fewEdges && !(s.edgeFlags[i] & (selected | pointed))) continue;
    const [from, to] = s.identities[i], lines = from === to ? [from] : [`${from} →`, to];
    const wide = Math.max(...lines.map((l) => ctx.measureText(l).width)), high = 14 * lines.length, { mx, my } = ways[i];
    const y = [22, -22, 52, -52].map((d) => my + d).find((y) => room(mx, y, wide, high));
    if (y === undefined) continue;
    lines.forEach((line, n) => text(p, line, mx, y + (n - (lines.length - 1) / 2) * 14, colours["--front"]));
    written.push(i);
  }
  return written;
}
