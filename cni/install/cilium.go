// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"path/filepath"
)

// hintCilium is what ends a fight with Cilium's agent. By default it watches the
// directory, restores its own config and renames all others to *.cilium_bak.
const hintCilium = `Cilium's agent allows no other program here: set cni.exclusive=false in its Helm values ` +
	`(cni-exclusive: "false" in the ConfigMap cilium-config) and restart its pods`

// isCiliums reports whether it was Cilium, by all that can be seen.
func isCiliums(dir string, c change) bool {
	renamed, _ := filepath.Glob(filepath.Join(dir, "*"+ciliumSuffix))
	return len(renamed) > 0 || bytes.Contains(c.data, []byte(`"cilium-cni"`))
}

const ciliumSuffix = ".cilium_bak"
