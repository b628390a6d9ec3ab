// SPDX-License-Identifier: Apache-2.0

// The page's entry. The same script arranges and paints the graph in two workers, so that the
// page stays fluid while they do.
import { arrangeForever } from "./arrange.js";
import { start } from "./page.js";
import { paintForever } from "./paint.js";

if (typeof document !== "undefined") start();
else if (self.name === "painter") paintForever();
else arrangeForever();
