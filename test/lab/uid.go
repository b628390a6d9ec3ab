// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

func newUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return formatUID(b[:])
}

// stableUID is the same for the same names, as an object's UID is.
func stableUID(names ...string) string {
	h := sha256.Sum256([]byte(strings.Join(names, "/")))
	return formatUID(h[:16])
}

func formatUID(b []byte) string {
	s := hex.EncodeToString(b)
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

// newContainerID is what a container runtime calls a sandbox.
func newContainerID() string {
	var b [32]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
