// SPDX-License-Identifier: Apache-2.0

// Bundles src into dist, which is committed: building Culvert needs no npm. The first line
// of the script names the hash of all that it was built from; a Go test compares it.
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
process.chdir(here);

const sources = ["build.mjs", "package-lock.json", "package.json", ...readdirSync("src").sort().map((name) => `src/${name}`)];
const hash = createHash("sha256");
for (const name of sources) {
  hash.update(`${name}\0`).update(readFileSync(name)).update("\0");
}

rmSync("dist", { recursive: true, force: true });
mkdirSync("dist");
const { metafile } = await build({
  absWorkingDir: here,
  entryPoints: ["src/main.js"],
  outfile: "dist/map.js",
  bundle: true,
  metafile: true,
  minify: true,
  format: "iife",
  target: "es2022",
  legalComments: "none", // LICENSES.txt has them
  banner: { js: `/* Culvert's map, made by make map; licences: LICENSES.txt; sources: sha256 ${hash.digest("hex")} */` },
});
for (const name of ["index.html", "login.html", "map.css", "login.css", "icon.svg"]) {
  copyFileSync(join("src", name), join("dist", name));
}

const packages = [...new Set(Object.keys(metafile.inputs).map((path) => /node_modules\/([^/]+)/.exec(path)?.[1]).filter(Boolean))].sort();
let licenses = "The map is part of Culvert, under the Apache License 2.0. Its script contains these packages.\n";
for (const name of packages) {
  const about = JSON.parse(readFileSync(join("node_modules", name, "package.json"), "utf8"));
  licenses += `\n---- ${name} ${about.version} (${about.license})\n\n${readFileSync(join("node_modules", name, "LICENSE"), "utf8").trim()}\n`;
}
writeFileSync(join("dist", "LICENSES.txt"), licenses);
