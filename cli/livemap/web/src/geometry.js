// SPDX-License-Identifier: Apache-2.0

// What takes which room: the same for whoever arranges, paints or points at it.
export const radius = 13; // of a workload, at zoom 1

const room = { x0: -44, y0: -20, x1: 44, y1: 32 }; // of a workload and its name
const rim = { x0: -12, y0: -26, x1: 12, y1: 12 }; // of a box around what is in it, with its name

export const roomOf = (x, y) => grown(room, { x0: x, y0: y, x1: x, y1: y });

// around is the box around some rooms and boxes.
export const around = (all) => grown(rim, {
  x0: Math.min(...all.map((r) => r.x0)), y0: Math.min(...all.map((r) => r.y0)), x1: Math.max(...all.map((r) => r.x1)), y1: Math.max(...all.map((r) => r.y1)),
});

const grown = (by, r) => ({ x0: r.x0 + by.x0, y0: r.y0 + by.y0, x1: r.x1 + by.x1, y1: r.y1 + by.y1 });

// way is a curve from a to b at zoom k: its ends at the rims of the two workloads, its control
// point if it is curved, its middle, and the direction in which it arrives. Edges keep to their right, so that
// those of the two directions are apart.
export function way(ax, ay, bx, by, k, bent) {
  const dx = bx - ax, dy = by - ay, long = Math.hypot(dx, dy);
  if (long < 1) return loop(ax, ay, k);
  const ux = dx / long, uy = dy / long, off = bent ? Math.min(26 * k, long * 0.15) : 3 * k;
  const mx = (ax + bx) / 2 - uy * off, my = (ay + by) / 2 + ux * off;
  const trim = Math.min(radius * k, long / 3);
  if (!bent) {
    return { ax: ax + ux * trim - uy * off, ay: ay + uy * trim + ux * off, bx: bx - ux * trim - uy * off, by: by - uy * trim + ux * off, cx: mx, cy: my, mx, my, ux, uy, curved: false };
  }
  const cx = (ax + bx) / 2 - uy * 2 * off, cy = (ay + by) / 2 + ux * 2 * off, arm = Math.hypot(cx - ax, cy - ay);
  const sx = (cx - ax) / arm, sy = (cy - ay) / arm, ex = (bx - cx) / arm, ey = (by - cy) / arm;
  return { ax: ax + sx * trim, ay: ay + sy * trim, bx: bx - ex * trim, by: by - ey * trim, cx, cy, mx, my, ux: ex, uy: ey, curved: true };
}

// loop is the way of what talks to itself.
function loop(x, y, k) {
  const r = radius * k;
  return { ax: x - r * 0.7, ay: y - r * 0.7, bx: x + r * 0.7, by: y - r * 0.7, cx: x, cy: y - 5 * r, mx: x, my: y - 2.85 * r, ux: 0.3, uy: 0.95, curved: true };
}

// distance is how far a point is from a way.
export function distance(w, x, y) {
  const bent = w.curved, parts = bent ? 12 : 1;
  let least = Infinity, px = w.ax, py = w.ay;
  for (let i = 1; i <= parts; i++) {
    const t = i / parts, s = 1 - t;
    const qx = bent ? s * s * w.ax + 2 * s * t * w.cx + t * t * w.bx : w.bx, qy = bent ? s * s * w.ay + 2 * s * t * w.cy + t * t * w.by : w.by;
    const dx = qx - px, dy = qy - py, share = Math.max(0, Math.min(1, ((x - px) * dx + (y - py) * dy) / (dx * dx + dy * dy || 1)));
    least = Math.min(least, Math.hypot(x - px - share * dx, y - py - share * dy));
    px = qx;
    py = qy;
  }
  return least;
}
