// SPDX-License-Identifier: Apache-2.0

package speed

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/culvert-mesh/culvert/test/env"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestMain(m *testing.M) { os.Exit(env.CheckLeaks(m)) }

// server runs one, and returns its address.
func server(t *testing.T, address string) string {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

var allRows = []Row{{Bulk, 1}, {Bulk, 32}, {Request, 1}, {Request, 4}, {Connect, 1}, {Connect, 3}}

func TestEachRowIsMeasuredByTurns(t *testing.T) {
	var cpu atomic.Int64
	ztunnel := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "# HELP x y\nprocess_cpu_seconds_total %d\nprocess_resident_memory_bytes 2e+07\nother{a=\"b c\"} 1\n", cpu.Add(1))
	}))
	defer ztunnel.Close()
	defer http.DefaultClient.CloseIdleConnections()
	var told []string
	plan := Plan{
		Targets: []Target{{Name: "first", Address: server(t, "127.0.0.1:0")}, {Name: "second", Address: server(t, "[::1]:0")}},
		Rows:    allRows, Turns: 3, Each: 20 * time.Millisecond, Beside: []string{ztunnel.URL + "/metrics"},
		Tell: func(s string) { told = append(told, s) },
	}
	report, err := plan.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(told) != len(allRows)*3*2 || !strings.Contains(told[2], "second, turn 2") || !strings.Contains(told[0], "1s left") {
		t.Errorf("%q", told)
	}
	if len(report.Rows) != len(allRows) || report.Failed() {
		t.Fatalf("%+v", report)
	}
	for i, row := range report.Rows {
		for _, r := range row.Results {
			if len(r.Values) != 3 || !(r.Lower <= r.Median && r.Median <= r.Upper) || r.Median <= 0 || r.Memory != 2e7 || r.CPU <= 0 {
				t.Errorf("%s: %+v", row.Name, r)
			}
			if timed := allRows[i].Kind != Bulk; (r.Half > 0) != timed || r.Most < r.Half {
				t.Errorf("%s: latencies %v, %v", row.Name, r.Half, r.Most)
			}
		}
	}
}

// What does not answer as a server is named, before anything is measured.
func TestATargetThatIsNoneIsNamed(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conn.Write([]byte("SSH-2.0"))
			conn.Close()
		}
	}()
	for _, address := range []string{env.Address(t), ln.Addr().String()} {
		plan := Plan{Targets: []Target{{Name: "wrong", Address: address}}, Rows: allRows, Turns: 1, Each: time.Millisecond, Tell: func(string) {}}
		if report, err := plan.Run(t.Context()); err == nil || report != nil || !strings.Contains(err.Error(), "target wrong: ") {
			t.Errorf("%v, %v", report, err)
		}
	}
}

// Metrics that are none are named, too.
func TestMetricsThatAreNoneAreNamed(t *testing.T) {
	to := server(t, "127.0.0.1:0")
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") }))
	defer page.Close()
	defer http.DefaultClient.CloseIdleConnections()
	plan := Plan{Targets: []Target{{Name: "a", Address: to}}, Rows: allRows, Turns: 1, Each: time.Millisecond, Beside: []string{page.URL}, Tell: func(string) {}}
	if _, err := plan.Run(t.Context()); err == nil || !strings.Contains(err.Error(), page.URL) {
		t.Error(err)
	}
}

// A target that goes away costs its rows, and not those of the other.
func TestATargetThatGoesAwayIsToldInItsRow(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone, leave := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Serve(gone, ln) }()
	plan := Plan{
		Targets: []Target{{Name: "stays", Address: server(t, "127.0.0.1:0")}, {Name: "goes", Address: ln.Addr().String()}},
		Rows:    []Row{{Request, 1}}, Turns: 2, Each: time.Millisecond,
		Tell: func(s string) {
			if strings.Contains(s, "goes, turn 1") {
				leave()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			}
		},
	}
	report, err := plan.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	results := report.Rows[0].Results
	if !report.Failed() || results[0].Problem != "" || results[0].Median <= 0 || results[1].Problem == "" {
		t.Errorf("%+v", results)
	}
}

// An interrupt ends a turn at once, and what is complete is there.
func TestAnInterruptLeavesWhatIsComplete(t *testing.T) {
	to := server(t, "127.0.0.1:0")
	ctx, cancel := context.WithCancel(t.Context())
	plan := Plan{
		Targets: []Target{{Name: "a", Address: to}}, Rows: []Row{{Bulk, 2}}, Turns: 1, Each: 10 * time.Minute,
		Tell: func(string) { time.AfterFunc(20*time.Millisecond, cancel) },
	}
	report, err := plan.Run(ctx)
	if !errors.Is(err, context.Canceled) || report == nil || len(report.Rows) != 0 {
		t.Errorf("%v, %v", report, err)
	}
}

// A stranger gets nothing, and a server with clients ends when it should.
func TestStrangersGetNothing(t *testing.T) {
	to := server(t, "127.0.0.1:0")
	for _, hello := range []string{"GET / HT", "culvertx", "culvert\x00"} {
		conn, err := net.Dial("tcp", to)
		if err != nil {
			t.Fatal(err)
		}
		conn.Write([]byte(hello))
		if got, _ := io.ReadAll(conn); len(got) > 0 {
			t.Errorf("%q got %q", hello, got)
		}
		conn.Close()
	}
	idle, err := net.Dial("tcp", to) // the server's end closes it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { idle.Close() })
}

func TestLatenciesOfALongTurnAreBounded(t *testing.T) {
	var l latencies
	for i := range 4 * latenciesMost {
		l.add(time.Duration(i))
	}
	if len(l.kept) != latenciesMost {
		t.Errorf("%d are kept", len(l.kept))
	}
	if half := l.at(0.5); half < latenciesMost || half > 3*latenciesMost {
		t.Errorf("of 0 to %d, half are below %d", 4*latenciesMost, half)
	}
}

// report is one of each kind of result.
var report = Report{
	Targets: []Target{{Name: "plain", Address: "10.0.1.8:7007"}, {Name: "mesh", Address: "10.0.1.7:7007"}}, Turns: 2, SecondsEach: 3,
	Rows: []Results{
		{"bulk, 8 connections", Bulk, 8, "Gbit/s", []Result{
			{Target: "plain", Values: []float64{9, 11}, Median: 10, Lower: 9.5, Upper: 10.5, Memory: 4e7},
			{Target: "mesh", Values: []float64{4, 6}, Median: 5, Lower: 4.5, Upper: 5.5, CPU: 0.81, Memory: 4.2e7},
		}},
		{"request, 1 connection", Request, 1, "requests/s", []Result{
			{Target: "plain", Values: []float64{20000, 22000}, Median: 21000, Lower: 20500, Upper: 21500, Half: 45.2, Most: 90.7},
			{Target: "mesh", Problem: "10.0.1.7:7007: connected, and then: EOF"},
		}},
	},
}

func TestReportsAreAsTheirGoldenFiles(t *testing.T) {
	var picture, lines strings.Builder
	if err := report.SVG(&picture); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(&lines, strings.ReplaceAll(Head, "|", "\t"))
	for _, line := range report.Lines() {
		fmt.Fprintln(&lines, strings.Join(line, "\t"))
	}
	text, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	for file, got := range map[string]string{"report.svg": picture.String(), "report.txt": lines.String(), "report.json": string(text) + "\n"} {
		path := "testdata/" + file
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s: -want +got\n%s", path, diff)
		}
	}
}
