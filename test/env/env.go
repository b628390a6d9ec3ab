// SPDX-License-Identifier: Apache-2.0

// Package env says what this host can do, and lends tests a piece of it: a
// network namespace, a cgroup, a bpffs directory, each gone when the test ends.
//
// Features are found by doing, never by uid: a container's root may be refused
// what a capable user is allowed.
package env

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Feature is something a test needs of the host beyond loopback sockets.
type Feature string

// The features a test can need. Their values are the words of MESH_REQUIRE.
const (
	Netns   Feature = "netns"   // make, enter and bind-mount a network namespace
	BPF     Feature = "bpf"     // load a cgroup/connect4 program
	Cgroup2 Feature = "cgroup2" // make a cgroup below a cgroup2 mount
)

var probes = map[Feature]func() error{
	Netns:   sync.OnceValue(probeNetns),
	BPF:     sync.OnceValue(probeBPF),
	Cgroup2: sync.OnceValue(probeCgroup2),
}

// Need skips the test unless the host has every feature. A feature named in
// MESH_REQUIRE (a comma-separated list) fails the test instead of skipping it,
// so that CI cannot pass by having lost a privilege.
func Need(t testing.TB, features ...Feature) {
	t.Helper()
	required, err := parseRequire(os.Getenv("MESH_REQUIRE"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range features {
		probe, ok := probes[f]
		if !ok {
			t.Fatalf("env.Need: no such feature %q", f)
		}
		err := probe()
		switch {
		case err == nil:
		case required[f]:
			t.Fatalf("MESH_REQUIRE asks for %s: %v", f, describe(err))
		default:
			t.Skipf("needs %s: %v", f, describe(err))
		}
	}
}

func parseRequire(list string) (map[Feature]bool, error) {
	required := make(map[Feature]bool)
	for word := range strings.SplitSeq(list, ",") {
		word = strings.TrimSpace(word)
		if word == "" {
			continue
		}
		if _, ok := probes[Feature(word)]; !ok {
			return nil, fmt.Errorf("MESH_REQUIRE: no such feature %q, want some of netns,bpf,cgroup2", word)
		}
		required[Feature(word)] = true
	}
	return required, nil
}

// describe adds the errno's name, which is what one searches for.
func describe(err error) string {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return fmt.Sprintf("%v (%s)", err, unix.ErrnoName(errno))
	}
	return err.Error()
}
