// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/redirect"
)

// host is what the node is like, as far as that may be in the way: "host" of /config_dump.
type host struct {
	Kernel  string           `json:"kernel"`            // as uname -r
	Cgroups string           `json:"cgroups"`           // v2, or hybrid: cgroup v1 beside it
	Others  []redirect.Other `json:"others"`            // BPF programs of other hands
	Problem string           `json:"problem,omitempty"` // why these are not known
}

// lookAtHost describes the node whose cgroup2 directory that is. others lists programs.
func lookAtHost(cgroup string, others func() ([]redirect.Other, error)) host {
	h := host{Cgroups: "v2", Others: []redirect.Other{}}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		h.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	// A hybrid host mounts cgroup2 at unified, beside the controllers of v1.
	if _, err := os.Stat(filepath.Join(filepath.Dir(filepath.Clean(cgroup)), "cpu")); err == nil && filepath.Base(cgroup) == "unified" {
		h.Cgroups = "hybrid"
	}
	all, err := others()
	if err != nil {
		h.Problem = err.Error()
	}
	h.Others = append(h.Others, all...)
	return h
}
