// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
)

const (
	memoryDefault    = 256 << 20 // the most that a process without GOMEMLIMIT takes for its budget
	memoryLeast      = 16 << 20  // the least, or no tunnel works
	memoryLimitShare = 4         // in between: one in so many bytes of GOMEMLIMIT, or of its cgroup's limit
)

// limits are those of this process. They are read once: a window that was granted cannot
// be taken back.
var limits = sync.OnceValue(func() memoryLimits {
	return memoryLimits{debug.SetMemoryLimit(-1), cgroupLimit(os.DirFS("/"))}
})

// memoryLimits bound the memory of a process, in bytes; math.MaxInt64: they do not.
type memoryLimits struct{ gomemlimit, cgroup int64 }

// budget is the bytes that may be held and lent.
func (l memoryLimits) budget() int64 { return max(l.proper(), memoryLeast) }

func (l memoryLimits) proper() int64 {
	if l.gomemlimit != math.MaxInt64 {
		return l.gomemlimit / memoryLimitShare
	}
	return min(memoryDefault, l.cgroup/memoryLimitShare)
}

// MemoryShort says by which limit this process has so little memory that a quarter of it
// is no budget, which then is larger. Empty: there is enough.
func MemoryShort() string { return limits().short() }

// MemoryToSpare is the bytes that garbage may take beyond what it usually takes: so much
// as is a quarter of the budget, and 64 MiB at most.
func MemoryToSpare() uint64 { return limits().spare() }

func (l memoryLimits) spare() uint64 { return uint64(min(l.budget(), memoryDefault) / 4) }

func (l memoryLimits) short() string {
	name, limit := "GOMEMLIMIT", l.gomemlimit
	if limit == math.MaxInt64 {
		name, limit = "the cgroup's memory limit", l.cgroup
	}
	if l.proper() >= memoryLeast {
		return ""
	}
	return fmt.Sprintf("%s is %d bytes, of which %d are taken: want %d or more", name, limit, memoryLeast, memoryLeast*memoryLimitShare)
}

// cgroupLimit is the least memory.max (v2) or memory.limit_in_bytes (v1) of this
// process's cgroup and those above it, as far as they can be seen; math.MaxInt64 if
// there is none. root is the root directory.
func cgroupLimit(root fs.FS) int64 {
	least := int64(math.MaxInt64)
	groups, _ := fs.ReadFile(root, "proc/self/cgroup") // cgroups(7)
	for line := range strings.Lines(string(groups)) {
		id, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, dir, _ := strings.Cut(rest, ":")
		switch {
		case id == "0":
			least = min(least, leastLimit(root, "sys/fs/cgroup", dir, "memory.max"))
		case controllers == "memory":
			least = min(least, leastLimit(root, "sys/fs/cgroup/memory", dir, "memory.limit_in_bytes"))
		}
	}
	return least
}

// leastLimit reads the limits of a cgroup and those above it. A container may see its own
// cgroup at mount, and have a name for it of which nothing is to be seen there.
func leastLimit(root fs.FS, mount, dir, file string) int64 {
	least := int64(math.MaxInt64)
	for dir = path.Clean("/" + dir); ; dir = path.Dir(dir) {
		text, err := fs.ReadFile(root, path.Join(mount, dir, file))
		if err == nil {
			if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil { // or it is max
				least = min(least, n)
			}
		}
		if dir == "/" {
			return least
		}
	}
}
