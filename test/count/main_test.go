// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"
)

const stream = `
{"Action":"start","Package":"m/a"}
{"Action":"run","Package":"m/a","Test":"TestOne"}
{"Action":"run","Package":"m/a","Test":"TestOne/x"}
{"Action":"pass","Package":"m/a","Test":"TestOne/x"}
{"Action":"run","Package":"m/a","Test":"TestOne/y"}
{"Action":"output","Package":"m/a","Test":"TestOne/y","Output":"    one_test.go:9: want 1\n"}
{"Action":"fail","Package":"m/a","Test":"TestOne/y"}
{"Action":"fail","Package":"m/a","Test":"TestOne"}
{"Action":"run","Package":"m/a","Test":"TestTwo"}
{"Action":"output","Package":"m/a","Test":"TestTwo","Output":"=== RUN   TestTwo\n"}
{"Action":"output","Package":"m/a","Test":"TestTwo","Output":"    two_test.go:7: needs bpf: bpf(BPF_PROG_LOAD): EPERM\n"}
{"Action":"output","Package":"m/a","Test":"TestTwo","Output":"--- SKIP: TestTwo (0.00s)\n"}
{"Action":"skip","Package":"m/a","Test":"TestTwo"}
{"Action":"fail","Package":"m/a","Elapsed":1.5}
{"Action":"start","Package":"m/b"}
{"Action":"skip","Package":"m/b"}
`

func count(t *testing.T, stream, skips string, strict bool) (string, bool) {
	t.Helper()
	var out bytes.Buffer
	r := newRun(&out)
	if err := r.read(strings.NewReader(strings.TrimSpace(stream))); err != nil {
		t.Fatal(err)
	}
	ok := r.report(readSkips(skips), strict)
	return out.String(), ok
}

func TestAFailedSubtestIsOneFailureAndItsReasonIsShown(t *testing.T) {
	out, ok := count(t, stream, "", false)
	if ok || !strings.HasSuffix(out, "\n1 passed, 1 failed, 1 skipped\n") {
		t.Errorf("ok=%v\n%s", ok, out)
	}
	for _, want := range []string{
		"fail    1.5s m/a\n",
		"--- failed: m/a TestOne/y",
		"    one_test.go:9: want 1\n",
		"--- skipped: m/a TestTwo: two_test.go:7: needs bpf: bpf(BPF_PROG_LOAD): EPERM\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

func TestStrictRunsFailWhenTheSkipsDifferFromTheList(t *testing.T) {
	green := strings.ReplaceAll(stream, `"fail"`, `"pass"`)
	for _, tc := range []struct {
		skips  string
		strict bool
		ok     bool
		want   string
	}{
		{"", false, true, ""},
		{"", true, false, "not in the list of skips: m/a TestTwo"},
		{"# why\nm/a TestTwo # no such NIC\n", true, true, ""},
		{"m/a TestTwo\nm/a TestOld\n", true, false, "in the list of skips, but not skipped: m/a TestOld"},
	} {
		out, ok := count(t, green, tc.skips, tc.strict)
		if ok != tc.ok || !strings.Contains(out, tc.want) {
			t.Errorf("skips %q, strict %v: ok=%v\n%s", tc.skips, tc.strict, ok, out)
		}
	}
}

func TestWhatDidNotEndOrRunOrBuildFails(t *testing.T) {
	for name, tc := range map[string]struct{ stream, want string }{
		"nothing":           {"", "count: no test was run\n0 passed, 0 failed, 0 skipped\n"},
		"killed":            {`{"Action":"run","Package":"m/a","Test":"TestOne"}`, "--- did not end: m/a TestOne"},
		"panic in TestMain": {`{"Action":"output","Package":"m/a","Output":"panic: x\n"}` + "\n" + `{"Action":"fail","Package":"m/a"}`, "--- failed: m/a (0.0s)\npanic: x\n"},
		"does not build": {`{"Action":"build-output","ImportPath":"m/a","Output":"a.go:1: syntax error\n"}` + "\n" +
			`{"Action":"fail","Package":"m/a"}`, "--- build: m/a\na.go:1: syntax error\n0 passed, 1 failed, 0 skipped\n"},
	} {
		out, ok := count(t, tc.stream, "", false)
		if ok || !strings.Contains(out, tc.want) {
			t.Errorf("%s: ok=%v\n%s", name, ok, out)
		}
	}
}
