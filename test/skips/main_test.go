// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const mixed = `
{"Action":"start","Package":"m/a"}
{"Action":"run","Package":"m/a","Test":"TestOne"}
{"Action":"run","Package":"m/a","Test":"TestOne/x"}
{"Action":"pass","Package":"m/a","Test":"TestOne/x"}
{"Action":"run","Package":"m/a","Test":"TestOne/1/2"}
{"Action":"output","Package":"m/a","Test":"TestOne/1/2","Output":"    one_test.go:9: want 1\n"}
{"Action":"fail","Package":"m/a","Test":"TestOne/1/2"}
{"Action":"fail","Package":"m/a","Test":"TestOne"}
{"Action":"run","Package":"m/a","Test":"TestTwo"}
{"Action":"output","Package":"m/a","Test":"TestTwo","Output":"--- SKIP: TestTwo (0.00s)\n"}
{"Action":"skip","Package":"m/a","Test":"TestTwo"}
{"Action":"fail","Package":"m/a","Elapsed":1.5}
{"Action":"start","Package":"m/b"}
{"Action":"skip","Package":"m/b"}
`

var green = strings.ReplaceAll(mixed, `"fail"`, `"pass"`)

// reportOn writes each part's recording, reports on the parts named, and returns
// what was said.
func reportOn(t *testing.T, recordings map[string]string, parts []string, skips string, strict bool) (string, bool) {
	t.Helper()
	dir := t.TempDir()
	for part, recording := range recordings {
		if err := os.WriteFile(filepath.Join(dir, part+".json"), []byte(recording), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	ok := report(&out, dir, parts, expected(skips), strict)
	return out.String(), ok
}

func TestAFailedSubtestIsOneFailure(t *testing.T) {
	out, ok := reportOn(t, map[string]string{"unit": mixed}, []string{"unit"}, "", false)
	if want := "--- failed: unit: m/a TestOne/1/2\n1 passed, 1 failed, 1 skipped\n"; ok || out != want {
		t.Errorf("ok=%v, want %q, got\n%s", ok, want, out)
	}
}

func TestPartsAreCountedAsOneRun(t *testing.T) {
	recordings := map[string]string{"unit": green, "purego": green}
	out, ok := reportOn(t, recordings, []string{"unit", "purego"}, "", false)
	if want := "4 passed, 0 failed, 2 skipped\n"; !ok || out != want {
		t.Errorf("ok=%v, want %q, got\n%s", ok, want, out)
	}
	recordings["purego"] = mixed
	out, ok = reportOn(t, recordings, []string{"unit", "purego"}, "", false)
	if want := "--- failed: purego: m/a TestOne/1/2\n3 passed, 1 failed, 2 skipped\n"; ok || out != want {
		t.Errorf("ok=%v, want %q, got\n%s", ok, want, out)
	}
}

func TestStrictRunsFailWhenTheSkipsDifferFromTheList(t *testing.T) {
	for _, tc := range []struct {
		skips  string
		strict bool
		ok     bool
		want   string
	}{
		{"", false, true, ""},
		{"", true, false, "--- not in the list of skips: unit: m/a TestTwo\n"},
		{"# why\nm/a TestTwo # no such NIC\n", true, true, ""},
		{"m/a TestTwo\nm/a TestOld\n", true, false, "--- in the list of skips, but not skipped: m/a TestOld\n"},
	} {
		out, ok := reportOn(t, map[string]string{"unit": green}, []string{"unit"}, tc.skips, tc.strict)
		if want := tc.want + "2 passed, 0 failed, 1 skipped\n"; ok != tc.ok || out != want {
			t.Errorf("skips %q, strict %v: ok=%v, want %q, got\n%s", tc.skips, tc.strict, ok, want, out)
		}
	}
}

func TestWhatDidNotEndOrRunOrBuildFails(t *testing.T) {
	for name, tc := range map[string]struct{ recording, want string }{
		"nothing": {"", "--- unit: no test was run\n0 passed, 0 failed, 0 skipped\n"},
		"killed": {`{"Action":"start","Package":"m/a"}{"Action":"run","Package":"m/a","Test":"TestOne"}{"Action":"fail","Package":"m/a"}`,
			"--- failed: unit: m/a TestOne\n0 passed, 1 failed, 0 skipped\n"},
		"panic in TestMain": {`{"Action":"start","Package":"m/a"}{"Action":"run","Package":"m/a","Test":"TestOne"}` +
			`{"Action":"pass","Package":"m/a","Test":"TestOne"}{"Action":"fail","Package":"m/a"}`,
			"--- failed: unit: m/a\n1 passed, 1 failed, 0 skipped\n"},
		"does not build": {green + `{"Action":"build-fail","ImportPath":"m/c"}{"Action":"start","Package":"m/c"}{"Action":"fail","Package":"m/c"}`,
			"--- failed: unit: m/c\n2 passed, 1 failed, 1 skipped\n"},
		"torn recording": {green + `{"Action":`, "unexpected EOF\n2 passed, 0 failed, 1 skipped\n"},
	} {
		out, ok := reportOn(t, map[string]string{"unit": tc.recording}, []string{"unit"}, "", false)
		if ok || !strings.HasSuffix(out, tc.want) {
			t.Errorf("%s: ok=%v, want %q, got\n%s", name, ok, tc.want, out)
		}
	}
}

func TestAPartThatLeftNoRecordingFails(t *testing.T) {
	out, ok := reportOn(t, map[string]string{"unit": green}, []string{"unit", "e2e"}, "", false)
	if ok || !strings.Contains(out, "--- e2e: open ") || !strings.HasSuffix(out, "\n2 passed, 0 failed, 1 skipped\n") {
		t.Errorf("ok=%v\n%s", ok, out)
	}
}
