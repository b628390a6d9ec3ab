// SPDX-License-Identifier: Apache-2.0

// Command skips reads what gotestsum recorded of the parts of a test run, and
// ends with the line
//
//	N passed, N failed, N skipped
//
// It exits 1 if a test failed or if a part ran no test. With MESH_REQUIRE set,
// where no privilege may be missing, it also exits 1 if the skips differ from the
// list given by -expect: a test that quietly stopped running is a failure.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	list := flag.String("expect", "test/skips.txt", "file of the skips that are expected, a package and a test in each line")
	dir := flag.String("in", "bin/test", "directory of PART.json, what gotestsum recorded of each part")
	flag.Parse()
	text, err := os.ReadFile(*list)
	if err != nil {
		fmt.Fprintln(os.Stderr, "skips:", err)
		os.Exit(1)
	}
	if !report(os.Stdout, *dir, flag.Args(), expected(string(text)), os.Getenv("MESH_REQUIRE") != "") {
		os.Exit(1)
	}
}

// report counts the tests of all parts, and says whether all is well.
func report(out io.Writer, dir string, parts, expected []string, strict bool) bool {
	results, ok := make(results), true
	for _, part := range parts {
		ran, err := results.readFile(part, filepath.Join(dir, part+".json"))
		if err == nil && ran == 0 {
			err = errors.New("no test was run")
		}
		if err != nil {
			fmt.Fprintf(out, "--- %s: %v\n", part, err)
			ok = false
		}
	}
	passed, failed, skipped := results.count()
	for _, test := range failed {
		fmt.Fprintf(out, "--- failed: %s\n", test)
	}
	if strict && !compare(out, skipped, expected) {
		ok = false
	}
	fmt.Fprintf(out, "%d passed, %d failed, %d skipped\n", passed, len(failed), len(skipped))
	return ok && len(failed) == 0
}

// id is a test or a subtest, or with no test the package itself.
type id struct{ part, pkg, test string }

func (i id) String() string { return strings.TrimSpace(i.part + ": " + i.pkg + " " + i.test) }

// results holds pass, fail or skip of each; what has not ended has "".
type results map[id]string

// readFile adds the results of a part, and returns how many tests it began.
func (r results) readFile(part, file string) (ran int, err error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for in := json.NewDecoder(f); ; {
		var event struct{ Action, Package, Test string } // see go doc test2json
		if err := in.Decode(&event); errors.Is(err, io.EOF) {
			return ran, nil
		} else if err != nil {
			return ran, fmt.Errorf("%s: %w", file, err)
		}
		switch test := (id{part, event.Package, event.Test}); event.Action {
		case "start":
			r[test] = ""
		case "run":
			r[test] = ""
			ran++
		case "pass", "fail", "skip":
			r[test] = event.Action
		}
	}
}

// count takes a package, and a test with subtests, for the sum of its parts. One
// that failed without a failing part counts by itself: a panic in TestMain, a
// build error, a check after the last subtest.
func (r results) count() (passed int, failed, skipped []id) {
	hasPart, hasFailingPart := make(map[id]bool), make(map[id]bool)
	for test, result := range r {
		whole := r.whole(test)
		hasPart[whole] = true
		hasFailingPart[whole] = hasFailingPart[whole] || failing(result)
	}
	for test, result := range r {
		switch {
		case failing(result) && !hasFailingPart[test]:
			failed = append(failed, test)
		case failing(result) || hasPart[test] || test.test == "":
		case result == "skip":
			skipped = append(skipped, test)
		default:
			passed++
		}
	}
	byName := func(a, b id) int { return strings.Compare(a.String(), b.String()) }
	slices.SortFunc(failed, byName)
	slices.SortFunc(skipped, byName)
	return passed, failed, skipped
}

// failing reports whether a result is a failure; what did not end is one.
func failing(result string) bool { return result == "fail" || result == "" }

// whole returns the test, or else the package, that test is a part of. A name may
// hold slashes of its own.
func (r results) whole(test id) id {
	for test.test != "" {
		test.test = test.test[:max(strings.LastIndex(test.test, "/"), 0)]
		if _, known := r[test]; known {
			return test
		}
	}
	return id{}
}

// expected reads "package test" lines; "#" opens a comment.
func expected(text string) []string {
	var list []string
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		if fields := strings.Fields(line); len(fields) == 2 {
			list = append(list, fields[0]+" "+fields[1])
		}
	}
	return list
}

func compare(out io.Writer, skipped []id, expected []string) bool {
	same, seen := true, make(map[string]bool)
	for _, test := range skipped {
		name := test.pkg + " " + test.test
		seen[name] = true
		if !slices.Contains(expected, name) {
			fmt.Fprintf(out, "--- not in the list of skips: %s\n", test)
			same = false
		}
	}
	for _, name := range expected {
		if !seen[name] {
			fmt.Fprintf(out, "--- in the list of skips, but not skipped: %s\n", name)
			same = false
		}
	}
	return same
}
