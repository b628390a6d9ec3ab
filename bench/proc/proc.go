// SPDX-License-Identifier: Apache-2.0

// Package proc says what processes have used, by /proc and perf_event_open(2).
package proc

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// tick is USER_HZ, which is 100 on every Linux that Go runs on.
const tick = 10 * time.Millisecond

// Family is the processes and all their descendants.
func Family(pids ...int) (all []int) {
	for _, pid := range pids {
		all = append(all, pid)
		tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		for _, task := range tasks {
			text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, task.Name()))
			for field := range strings.FieldsSeq(string(text)) {
				if child, err := strconv.Atoi(field); err == nil {
					all = append(all, Family(child)...)
				}
			}
		}
	}
	return all
}

// CPU is user and system time of the processes so far.
func CPU(pids ...int) (sum time.Duration, err error) {
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, err
		}
		// Past the name, which may hold anything: fields 3 and on.
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		for _, field := range fields[11:13] { // utime, stime
			ticks, err := strconv.ParseInt(field, 10, 64)
			if err != nil {
				return 0, err
			}
			sum += time.Duration(ticks) * tick
		}
	}
	return sum, nil
}

// RSS is the resident memory of the processes, in bytes. What they share
// counts for each.
func RSS(pids ...int) (sum int64, err error) {
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if err != nil {
			return 0, err
		}
		pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
		if err != nil {
			return 0, err
		}
		sum += pages * int64(os.Getpagesize())
	}
	return sum, nil
}

// Stolen is the share of the machine's time since boot that its host took, and
// that time, in ticks.
func Stolen() (stolen, total int64) {
	times := machine()
	for _, n := range times {
		total += n
	}
	return times[7], total
}

// Softirq is the machine's time since boot that softirqs took, whoever they
// interrupted.
func Softirq() time.Duration { return time.Duration(machine()[6]) * tick }

// machine is the times of all CPUs since boot, in ticks: user, nice, system,
// idle, iowait, irq, softirq, steal.
func machine() (times [8]int64) {
	text, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line)
	for i := range times {
		if i+1 < len(fields) {
			times[i], _ = strconv.ParseInt(fields[i+1], 10, 64)
		}
	}
	return times
}

// Listens reports whether something listens on a TCP port in the netns of a
// process.
func Listens(pid int, port uint16) bool {
	const listening = "0A"
	for _, name := range []string{"tcp", "tcp6"} {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, name))
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			if len(fields) > 3 && fields[3] == listening && strings.HasSuffix(fields[1], fmt.Sprintf(":%04X", port)) {
				return true
			}
		}
	}
	return false
}

// RoutesBy reports whether there is a route by a device in the netns of a process.
func RoutesBy(pid int, device string) bool {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/route", pid))
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, device+"\t") {
			return true
		}
	}
	return false
}
