// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"math"
	"strings"
	"testing"
	"testing/fstest"
)

func TestMemoryIsAPartOfWhatTheProcessMayHave(t *testing.T) {
	const none = math.MaxInt64
	for _, test := range []struct {
		gomemlimit, cgroup, want int64
		short                    string // whose limit
	}{
		{none, none, 256 << 20, ""},
		{4 << 30, none, 1 << 30, ""},
		{200 << 20, none, 50 << 20, ""},
		{none, 200 << 20, 50 << 20, ""},
		{none, 8 << 30, 256 << 20, ""},
		{200 << 20, 4 << 30, 50 << 20, ""},
		{64 << 20, none, 16 << 20, ""},
		{0, none, 16 << 20, "GOMEMLIMIT is 0 bytes"},
		{1 << 20, 8 << 30, 16 << 20, "GOMEMLIMIT is 1048576 bytes"},
		{none, 32 << 20, 16 << 20, "cgroup's memory limit is 33554432 bytes"},
	} {
		l := memoryLimits{test.gomemlimit, test.cgroup}
		if got := l.budget(); got != test.want {
			t.Errorf("with %+v it is %d, want %d", l, got, test.want)
		}
		if got := l.short(); (got == "") != (test.short == "") || !strings.Contains(got, test.short) {
			t.Errorf("with %+v it is said %q, want %q", l, got, test.short)
		}
	}
}

func TestTheLeastLimitOfTheCgroupsAboveHolds(t *testing.T) {
	const none = math.MaxInt64
	for name, test := range map[string]struct {
		groups string
		files  map[string]string // in /sys/fs/cgroup
		want   int64
	}{
		"a unit's": {"0::/system.slice/ztunnel.service\n",
			map[string]string{"system.slice/ztunnel.service/memory.max": "500000000\n", "system.slice/memory.max": "max\n"}, 500000000},
		"its pod's": {"0::/kubepods/pod1/ztunnel\n",
			map[string]string{"kubepods/pod1/ztunnel/memory.max": "max\n", "kubepods/pod1/memory.max": "400000000\n", "kubepods/memory.max": "9000000000\n"}, 400000000},
		"in a cgroup namespace":       {"0::/\n", map[string]string{"memory.max": "300000000\n"}, 300000000},
		"none":                        {"0::/a\n", map[string]string{"a/memory.max": "max\n"}, none},
		"without a memory controller": {"0::/a\n", nil, none},
		"version 1": {"5:devices:/a\n4:memory:/a\n0::/b\n",
			map[string]string{"memory/a/memory.limit_in_bytes": "200000000\n", "memory/memory.limit_in_bytes": "9223372036854771712\n"}, 200000000},
		"version 1, in a container": {"4:memory:/docker/a\n", map[string]string{"memory/memory.limit_in_bytes": "100000000\n"}, 100000000},
		"without a file":            {"", nil, none},
	} {
		root := fstest.MapFS{"proc/self/cgroup": {Data: []byte(test.groups)}}
		for file, text := range test.files {
			root["sys/fs/cgroup/"+file] = &fstest.MapFile{Data: []byte(text)}
		}
		if got := cgroupLimit(root); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}

func TestGarbageIsGivenAQuarterOfTheBudget(t *testing.T) {
	for limits, want := range map[memoryLimits]uint64{
		{math.MaxInt64, math.MaxInt64}: 64 << 20,
		{64 << 30, math.MaxInt64}:      64 << 20,
		{math.MaxInt64, 512 << 20}:     32 << 20,
		{1 << 20, math.MaxInt64}:       4 << 20,
	} {
		if got := limits.spare(); got != want {
			t.Errorf("%+v: %d, want %d", limits, got, want)
		}
	}
}
