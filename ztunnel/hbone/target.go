// SPDX-License-Identifier: Apache-2.0

package hbone

import "github.com/culvert-mesh/culvert/ztunnel/hbone/h2"

// Target is where a stream is to end.
type Target = h2.Target

// Header is what a CONNECT or its answer says beside where to. It describes
// the peer for logs and metrics and decides nothing.
type Header = h2.Header
