// SPDX-License-Identifier: Apache-2.0

// Package host describes the machine that a benchmark ran on.
package host

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Host is what the numbers depend on besides the code.
type Host struct {
	Kernel     string   `json:"kernel"`
	CPU        string   `json:"cpu"`
	CPUs       int      `json:"cpus"`
	CPUFlags   []string `json:"cpu_flags"` // those that crypto and BPF care about
	Hypervisor bool     `json:"hypervisor"`
	Go         string   `json:"go"`
	Commit     string   `json:"commit"`
	Time       string   `json:"time"`
	Load       string   `json:"load"` // averages when the run was over
}

var flagsOfInterest = []string{"aes", "avx2", "avx512f", "vaes", "vpclmulqdq"}

// Describe describes this machine now, at the end of a run.
func Describe(ctx context.Context) Host {
	h := Host{
		Kernel: kernel(), CPUs: runtime.NumCPU(), Go: runtime.Version(), Commit: commit(ctx),
		Time: time.Now().UTC().Format(time.RFC3339), CPU: runtime.GOARCH, CPUFlags: []string{},
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		h.Load = strings.Join(strings.Fields(string(text))[:3], " ")
	}
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(key) {
		case "model name":
			h.CPU = strings.TrimSpace(value)
		case "flags":
			h.readFlags(value)
			return h // the other CPUs are the same
		}
	}
	return h
}

func (h *Host) readFlags(text string) {
	have := make(map[string]bool)
	for flag := range strings.FieldsSeq(text) {
		have[flag] = true
	}
	h.Hypervisor = have["hypervisor"]
	for _, flag := range flagsOfInterest {
		if have[flag] {
			h.CPUFlags = append(h.CPUFlags, flag)
		}
	}
}

func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// commit asks git: go run does not stamp what it builds.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--abbrev=12").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
