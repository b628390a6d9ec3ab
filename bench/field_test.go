// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"
	"testing"
)

func TestFortiosNumbersAreReadOnlyIfAllWereAnswered(t *testing.T) {
	const good = `{"ActualQPS": 5000.5, "RetCodes": {"200": 10}, "DurationHistogram": {"Count": 10,
		"Percentiles": [{"Percentile": 50, "Value": 0.001}, {"Percentile": 99, "Value": 0.004}]}}`
	qps, p99, count, err := readFortio([]byte(good))
	if err != nil || qps != 5000.5 || p99 != 0.004 || count != 10 {
		t.Errorf("%v requests a second, p99 %v, of %d: %v", qps, p99, count, err)
	}
	for name, bad := range map[string]string{
		"another answer": strings.Replace(good, `"200": 10`, `"200": 9, "503": 1`, 1),
		"one too many":   strings.Replace(good, `"200": 10`, `"200": 10, "503": 1`, 1),
		"none of 200":    strings.NewReplacer(`"200": 10`, `"200": 0`, `"Count": 10`, `"Count": 0`).Replace(good),
		"a lost one":     strings.Replace(good, `"200": 10`, `"200": 9`, 1),
		"none at all":    `{"ActualQPS": 1, "RetCodes": {}, "DurationHistogram": {"Count": 0}}`,
		"no p99":         strings.Replace(good, `"Percentile": 99`, `"Percentile": 90`, 1),
		"not JSON":       "Fortio 1.68",
	} {
		if _, _, _, err := readFortio([]byte(bad)); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func TestIperfsNumbersAreThoseOfTheReceiver(t *testing.T) {
	rate, err := readIperf([]byte(`{"end": {"sum_sent": {"bytes": 9, "bits_per_second": 9e9}, "sum_received": {"bytes": 5, "bits_per_second": 5e9}}}`))
	if err != nil || rate != 5e9 {
		t.Errorf("%v, %v", rate, err)
	}
	for _, bad := range []string{`{"error": "unable to connect"}`, `{"end": {}}`, "iperf 3.12"} {
		if _, err := readIperf([]byte(bad)); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}

// What takes long, or needs more programs, is measured if it is asked for by name.
func TestTheFieldsRowsAreNoPartOfAWholeRun(t *testing.T) {
	for _, r := range (options{}).chosen() {
		if r.asked {
			t.Errorf("row %s is in a whole run", r.name)
		}
	}
	all := options{rows: []string{"fortio", "iperf3", "burst", "cores"}}.chosen()
	if len(all) != 4 {
		t.Errorf("asked for by name: %d rows", len(all))
	}
	for _, r := range all {
		for name, want := range map[string]bool{direct: true, ours: true, istios: true, xnet: !r.apps, nginx: false, ours + sameNode: false} {
			if got := r.in(&peer{name: name}, r.cells[0]); got != want {
				t.Errorf("row %s in column %s: %v", r.name, name, got)
			}
		}
	}
}

// A program that is given is a column beside those that are named.
func TestAGivenProxyIsWantedBesideNames(t *testing.T) {
	t.Setenv("ISTIO_ZTUNNEL", "")
	for list, want := range map[string][]string{
		"direct,ours,ztunnel=/bin/z":              {direct, ours, istios},
		"direct,ztunnel=/bin/z,ztunnel-same-node": {direct, istios + sameNode},
		"ztunnel=/bin/z":                          {direct, nginx, istios},
	} {
		o, err := parse([]string{"-peer", list})
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range want {
			if !o.wants(name) {
				t.Errorf("%s: column %s is left out", list, name)
			}
		}
		if strings.HasPrefix(list, "direct") && (o.wants(nginx) || o.wants(istios) != slices.Contains(want, istios)) {
			t.Errorf("%s: %v", list, o.peers)
		}
	}
}
