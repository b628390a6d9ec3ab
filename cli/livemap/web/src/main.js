// SPDX-License-Identifier: Apache-2.0

// The page's entry. The same script arranges the graph in a worker, so that the page stays
// fluid while it does.
import { arrangeForever } from "./arrange.js";
import { start } from "./page.js";

if (typeof document === "undefined") {
  arrangeForever();
} else {
  start();
}
