// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	crowdSize  = 5000
	mostOfAPod = 500  // bytes in ztunnel's heap, as in its source and registry: ztunnel/source/kube
	mostOfCPU  = 10.0 // percent of a core, while a hundred pods change a second: others may be busy
	measureFor = 30 * time.Second
)

// The figures of docs/benchmarks.md come from this test: -v shows them.
func TestAZtunnelKnowsFiveThousandPodsAndTheirChanges(t *testing.T) {
	c := useShared(t)
	m := startMesh(c)
	ztunnel := process{m, "node1"}
	small := ztunnel.measure(0)
	crowd := gather(c, crowdSize)
	before := ztunnel.measure(measureFor)
	began := time.Now()
	crowd.come()
	ztunnel.awaitPods(crowdSize)
	t.Logf("the pods came within %v", time.Since(began).Round(time.Second))

	alone := ztunnel.measure(measureFor)
	crowd.open()
	ztunnel.awaitServices(crowdSize / podsOfGroup)
	rest := ztunnel.measure(measureFor)
	stop := crowd.change()
	busy := ztunnel.measure(measureFor)
	t.Logf("%.0f changes a second", stop())

	t.Logf("%-45s %8s %8s %8s", "a ztunnel", "heap MB", "RSS MB", "% core")
	for _, row := range []struct {
		what string
		measured
	}{{"of two nodes", small}, {"of 252 nodes and 50 namespaces without pods", before}, {"of 5,000 pods, at rest", alone}, {"of these and 500 Services, at rest", rest}, {"and 100 changes of pods a second", busy}} {
		t.Logf("%-45s %8.1f %8.1f %8.1f", row.what, float64(row.heap)/1e6, float64(row.resident)/1e6, row.cpu)
	}
	each, behind := (alone.heap-before.heap)/crowdSize, (rest.heap-alone.heap)/crowdSize
	t.Logf("a pod takes %d bytes, and %d more behind a Service", each, behind)
	if each > mostOfAPod {
		t.Errorf("a pod takes %d bytes, want %d at most", each, mostOfAPod)
	}
	if busy.cpu > mostOfCPU {
		t.Errorf("changes take %.1f %% of a core, want %.1f at most", busy.cpu, mostOfCPU)
	}
}

// process is the ztunnel of a node.
type process struct {
	*mesh
	node string
}

// measured is what a process takes.
type measured struct {
	heap, resident int     // bytes: in use after a collection, and of all memory
	cpu            float64 // percent of a core
}

// measure takes as long as CPU time is looked at.
func (p process) measure(d time.Duration) measured {
	p.t.Helper()
	var m measured
	before := p.ticks()
	time.Sleep(d)
	if d > 0 {
		m.cpu = float64(p.ticks()-before) / d.Seconds() // ticks are hundredths of a second
	}
	for range 2 { // collections: what is kept for reuse goes in the second
		m.heap = p.number("# HeapAlloc = ", p.enter(p.node, "curl", "--silent", "--fail", "--unix-socket", "/run/culvert/admin.sock", "http://ztunnel/debug/pprof/heap?debug=1&gc=1"))
	}
	m.resident = 1024 * p.number("VmRSS:", p.proc("status"))
	return m
}

// proc is a file of the process in /proc.
func (p process) proc(file string) string {
	p.t.Helper()
	return p.enter(p.node, "sh", "-c", "cat /proc/$(cat /run/culvert-test-ztunnel.pid)/"+file)
}

// ticks is the CPU time that it has used.
func (p process) ticks() int {
	p.t.Helper()
	stat := p.proc("stat")
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:]) // the first is the third of proc(5)
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err1 != nil || err2 != nil {
		p.t.Fatalf("%s: %v %v", stat, err1, err2)
	}
	return user + system
}

// number is the one behind a word of text.
func (p process) number(word, text string) int {
	p.t.Helper()
	_, rest, _ := strings.Cut(text, word)
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		p.t.Fatalf("no %q in:\n%s", word, text)
	}
	n, err := strconv.Atoi(fields[0])
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

func (p process) awaitPods(n int) {
	p.t.Helper()
	p.await("pods", func(d dump) int { return len(d.Workloads) }, n)
}

func (p process) awaitServices(n int) {
	p.t.Helper()
	p.await("services", func(d dump) int { return len(d.Services) }, n)
}

// dump is what is looked at of a ztunnel's /config_dump.
type dump struct{ Workloads, Services []json.RawMessage }

func (p process) await(what string, of func(dump) int, n int) {
	p.t.Helper()
	eventually(p.t, func() error {
		text, err := p.tryEnter(p.node, "curl", "--silent", "--fail", "http://127.0.0.1:15000/config_dump")
		if err != nil {
			return err
		}
		var d dump
		if err := json.Unmarshal([]byte(text), &d); err != nil {
			return err
		}
		if of(d) < n {
			return fmt.Errorf("%s knows %d %s of %d", p.node, of(d), what, n)
		}
		return nil
	})
}
