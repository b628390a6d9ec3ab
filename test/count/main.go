// SPDX-License-Identifier: Apache-2.0

// Command count reads `go test -json` and says how it went: a line per package,
// the output of what failed, what was skipped and why, and as its last line
//
//	N passed, N failed, N skipped
//
// It exits 1 if anything failed or if nothing ran. With MESH_REQUIRE set, where
// no privilege may be missing, it also does if the skips differ from the list
// given by -skips: a test that quietly stopped running is a failure.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

func main() {
	list := flag.String("skips", "", "file of the skips that are expected, a package and a test in each line")
	flag.Parse()
	var expected map[string]bool
	if *list != "" {
		text, err := os.ReadFile(*list)
		if err != nil {
			fmt.Fprintln(os.Stderr, "count:", err)
			os.Exit(2)
		}
		expected = readSkips(string(text))
	}
	run := newRun(os.Stdout)
	if err := run.read(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "count:", err)
		os.Exit(2)
	}
	if !run.report(expected, os.Getenv("MESH_REQUIRE") != "") {
		os.Exit(1)
	}
}

// readSkips reads "package test" lines; "#" opens a comment.
func readSkips(text string) map[string]bool {
	expected := make(map[string]bool)
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		if fields := strings.Fields(line); len(fields) == 2 {
			expected[fields[0]+" "+fields[1]] = true
		}
	}
	return expected
}

// event is one line of go test -json, see go doc test2json.
type event struct {
	Action, Package, ImportPath, Test, Output string
	Elapsed                                   float64
}

// test is one test or subtest, or with no name the package itself.
type test struct {
	output  strings.Builder
	result  string // pass, fail, skip; empty while it runs
	parent  bool   // counted by its subtests
	elapsed float64
}

// run is everything heard so far. Keys are "package test".
type run struct {
	out    io.Writer
	tests  map[string]*test
	builds map[string]*strings.Builder // output of go build, by package
}

func newRun(out io.Writer) *run {
	return &run{out: out, tests: make(map[string]*test), builds: make(map[string]*strings.Builder)}
}

func (r *run) read(in io.Reader) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			fmt.Fprintln(r.out, lines.Text()) // go's own complaint
			continue
		}
		r.hear(e)
	}
	return lines.Err()
}

func (r *run) hear(e event) {
	if strings.HasPrefix(e.Action, "build-") {
		if r.builds[e.ImportPath] == nil {
			r.builds[e.ImportPath] = new(strings.Builder)
		}
		r.builds[e.ImportPath].WriteString(e.Output)
		return
	}
	key := e.Package + " " + e.Test
	t := r.tests[key]
	if t == nil {
		t = new(test)
		r.tests[key] = t
		if i := strings.LastIndex(e.Test, "/"); i > 0 {
			if parent := r.tests[e.Package+" "+e.Test[:i]]; parent != nil {
				parent.parent = true
			}
		}
	}
	switch e.Action {
	case "output":
		t.output.WriteString(e.Output)
	case "pass", "fail", "skip":
		t.result, t.elapsed = e.Action, e.Elapsed
		if e.Action == "pass" {
			t.output.Reset()
		}
		if e.Test == "" && e.Action != "skip" { // skip: a package without tests
			fmt.Fprintf(r.out, "%-4s %6.1fs %s\n", e.Action, e.Elapsed, e.Package)
		}
	}
}

// report prints the end and says whether all is well.
func (r *run) report(expected map[string]bool, strict bool) bool {
	var passed, failed int
	skipped := make(map[string]bool)
	for _, key := range slices.Sorted(maps.Keys(r.tests)) {
		t := r.tests[key]
		name := strings.TrimSpace(key)
		switch {
		case t.result == "fail" || t.result == "":
			if r.blamed(key) {
				failed++
				r.show(name, t)
			}
		case strings.HasSuffix(key, " ") || t.parent: // a package, or counted by its parts
		case t.result == "skip":
			skipped[name] = true
			fmt.Fprintf(r.out, "--- skipped: %s: %s\n", name, reason(t.output.String()))
		default:
			passed++
		}
	}
	for _, pkg := range slices.Sorted(maps.Keys(r.builds)) {
		fmt.Fprintf(r.out, "--- build: %s\n%s", pkg, r.builds[pkg])
	}
	ok := failed == 0 && passed > 0
	if passed+failed+len(skipped) == 0 {
		fmt.Fprintln(r.out, "count: no test was run")
	}
	if strict && !r.compare(skipped, expected) {
		ok = false
	}
	fmt.Fprintf(r.out, "%d passed, %d failed, %d skipped\n", passed, failed, len(skipped))
	return ok
}

// blamed reports whether key failed by itself, rather than because a part of
// it did: a failed subtest fails its test and its package.
func (r *run) blamed(key string) bool {
	below := key + "/"
	if strings.HasSuffix(key, " ") {
		below = key
	}
	for other, t := range r.tests {
		if other != key && strings.HasPrefix(other, below) && (t.result == "fail" || t.result == "") {
			return false
		}
	}
	return true
}

func (r *run) show(name string, t *test) {
	what := "failed"
	if t.result == "" {
		what = "did not end"
	}
	fmt.Fprintf(r.out, "--- %s: %s (%.1fs)\n%s", what, name, t.elapsed, t.output.String())
}

// reason is the last line a skipped test wrote that is not the testing package's.
func reason(output string) string {
	why := "no reason given"
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "---") && !strings.HasPrefix(line, "===") {
			why = line
		}
	}
	return why
}

func (r *run) compare(skipped, expected map[string]bool) bool {
	same := true
	for _, name := range slices.Sorted(maps.Keys(skipped)) {
		if !expected[name] {
			fmt.Fprintf(r.out, "--- not in the list of skips: %s\n", name)
			same = false
		}
	}
	for _, name := range slices.Sorted(maps.Keys(expected)) {
		if !skipped[name] {
			fmt.Fprintf(r.out, "--- in the list of skips, but not skipped: %s\n", name)
			same = false
		}
	}
	return same
}
