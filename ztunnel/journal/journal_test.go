// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/slogtest"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// open returns a logger over a journal in front of out, which runs.
func open(out io.Writer, opts Options) (*slog.Logger, *Journal) {
	j := New(out, JSON(slog.LevelInfo), opts)
	go j.Run()
	return slog.New(j.Handler()), j
}

func closed(t *testing.T, j *Journal) {
	t.Helper()
	if !j.Close(10 * time.Second) {
		t.Fatal("the journal does not end")
	}
}

// lines decodes JSON lines.
func lines(t *testing.T, text []byte) (all []map[string]any) {
	t.Helper()
	for line := range bytes.Lines(text) {
		var fields map[string]any
		if err := json.Unmarshal(line, &fields); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		all = append(all, fields)
	}
	return all
}

func TestHandlerIsOneOfSlog(t *testing.T) {
	var out bytes.Buffer
	j := New(&out, JSON(nil), Options{})
	go j.Run()
	if err := slogtest.TestHandler(j.Handler(), func() []map[string]any {
		closed(t, j)
		records := lines(t, out.Bytes())
		for _, r := range records {
			r[slog.MessageKey] = r["message"]
		}
		return records
	}); err != nil {
		t.Error(err)
	}
}

func TestRecordsOfAllLevelsStayInOrder(t *testing.T) {
	var out bytes.Buffer
	log, j := open(&out, Options{})
	log = log.With("pod", "web-1")
	levels := []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError}
	for i := range 1000 {
		log.Log(t.Context(), levels[i%4], "record", "i", i)
	}
	closed(t, j)
	got := lines(t, out.Bytes())
	if len(got) != 750 {
		t.Fatalf("%d records, want 750: debug is off", len(got))
	}
	for n, fields := range got {
		i := n/3*4 + n%3 + 1
		if fields["i"] != float64(i) || fields["level"] != strings.ToLower(levels[i%4].String()) || fields["pod"] != "web-1" {
			t.Fatalf("record %d is %v", n, fields)
		}
	}
}

func TestDurationsAreText(t *testing.T) {
	var out bytes.Buffer
	log, j := open(&out, Options{})
	log.With("every", time.Hour).WithGroup("g").Info("x", "took", 1500*time.Millisecond, slog.Group("h", "after", time.Minute))
	closed(t, j)
	if got := out.String(); !strings.Contains(got, `"every":"1h0m0s","g":{"took":"1.5s","h":{"after":"1m0s"}}`) {
		t.Error(got)
	}
}

// stuck is an output whose reader has stopped.
type stuck struct {
	r *bufio.Reader
	io.Writer
}

func pipe(t testing.TB) stuck {
	t.Helper()
	r, w := io.Pipe()
	t.Cleanup(func() { r.Close(); w.Close() })
	return stuck{bufio.NewReader(r), w}
}

// fill logs until a record is dropped.
func fill(t *testing.T, log *slog.Logger, j *Journal) (logged int) {
	t.Helper()
	say := func() {
		log.Info("fill", "i", logged, "pad", strings.Repeat("x", 1000))
		logged++
	}
	say()
	j.empty() // it is being written, which takes until somebody reads
	for j.Dropped()["info"] == 0 {
		if say(); logged > 1e6 {
			t.Fatal("a million records and none is dropped")
		}
	}
	return logged
}

func TestAnOutputThatIsNotReadStopsNobody(t *testing.T) {
	out := pipe(t)
	log, j := open(out, Options{Records: 100})
	logged := fill(t, log, j)
	for range 10 {
		log.Warn("one more")
	}
	if got := j.Dropped(); got["info"] != 1 || got["warn"] != 10 || got["error"] != 0 || got["debug"] != 0 {
		t.Errorf("dropped %v, want 1 info and 10 warn", got)
	}

	// The reader comes back: what was queued, then what is missing, then what
	// is logged from now on. The first is when it happened.
	before := time.Now()
	var got []map[string]any
	next := func() map[string]any {
		line, err := out.r.ReadBytes('\n')
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, lines(t, line)...)
		return got[len(got)-1]
	}
	for i := range logged - 1 {
		fields := next()
		at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(fields["time"]))
		if fields["i"] != float64(i) || err != nil || at.After(before) {
			t.Fatalf("record %d is %v (%v)", i, fields, err)
		}
	}
	if fields := next(); fields["level"] != "warn" || fields["dropped"] != 11.0 || fields["dropped_errors"] != 0.0 {
		t.Errorf("after the gap: %v", fields)
	}
	log.Info("again")
	if fields := next(); fields["message"] != "again" {
		t.Errorf("after the notice: %v", fields)
	}
	closed(t, j)
}

// The names are those by which logs of Istio's ztunnel are searched. The text of a record
// is no place to look for them.
func TestJSONHasTheNamesOfIstiosLogs(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(JSON(slog.LevelDebug)(&out))
	log.Warn(`"level":"INFO","msg":"no"`, "level", "HIGH", "msg", "kept")
	log.With("scope", "access").WithGroup("g").Error("late", "MSG", 1)
	log.Log(t.Context(), slog.LevelInfo+1, "between")
	var texts []string
	for line := range strings.Lines(out.String()) {
		_, rest, _ := strings.Cut(line, ",")
		texts = append(texts, strings.TrimSpace(rest))
	}
	if diff := cmp.Diff([]string{
		`"level":"warn","message":"\"level\":\"INFO\",\"msg\":\"no\"","level":"HIGH","msg":"kept"}`,
		`"level":"error","message":"late","scope":"access","g":{"MSG":1}}`,
		`"level":"info+1","message":"between"}`,
	}, texts); diff != "" {
		t.Error(diff)
	}
	out.Reset()
	_ = JSON(slog.LevelDebug)(&out).Handle(t.Context(), slog.NewRecord(time.Time{}, slog.LevelInfo, "no time", 0))
	if got := out.String(); got != `{"level":"info","message":"no time"}`+"\n" {
		t.Errorf("without a time: %s", got)
	}
}

func TestTheBoundIsInBytesToo(t *testing.T) {
	out := pipe(t)
	log, j := open(out, Options{Bytes: 64 << 10})
	if logged := fill(t, log, j); logged > 100 { // and one is on its way
		t.Errorf("%d records of 1 KiB found room in 64 KiB", logged)
	}
	log.Info("too long for any queue", "pad", strings.Repeat("x", 64<<10))
	if got := j.Dropped()["info"]; got != 2 {
		t.Errorf("dropped %d, want 2", got)
	}
}

// wedge is an output that takes nothing until it is opened.
type wedge struct{ open chan struct{} }

func (w wedge) Write(text []byte) (int, error) {
	<-w.open
	return len(text), nil
}

func TestAnErrorWaitsForRoomButNotForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := wedge{make(chan struct{})}
		log, j := open(out, Options{Records: 1})
		log.Info("on its way")
		synctest.Wait()
		log.Info("queued")

		start := time.Now()
		log.Error("first")
		if took := time.Since(start); took != 100*time.Millisecond {
			t.Errorf("the first error waited %v", took)
		}
		start = time.Now()
		log.Error("second")
		log.Warn("third")
		if took := time.Since(start); took != 0 {
			t.Errorf("what came behind an error that waited in vain waited %v", took)
		}
		if got := j.Dropped(); got["error"] != 2 || got["warn"] != 1 {
			t.Errorf("dropped %v", got)
		}
		close(out.open)
		closed(t, j)
	})
}

func TestAnErrorThatFindsRoomInTimeIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := wedge{make(chan struct{})}
		log, j := open(out, Options{Records: 1})
		log.Info("on its way")
		synctest.Wait()
		log.Info("queued")
		time.AfterFunc(50*time.Millisecond, func() { close(out.open) })
		log.Error("waits")
		if got := j.Dropped(); got["error"] != 0 {
			t.Errorf("dropped %v", got)
		}
		closed(t, j)
	})
}

func TestCloseDoesNotWaitForAStuckOutput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := wedge{make(chan struct{})}
		log, j := open(out, Options{})
		log.Info("on its way")
		start := time.Now()
		if j.Close(time.Second) || time.Since(start) != time.Second {
			t.Errorf("ended well after %v", time.Since(start))
		}
		close(out.open)
		closed(t, j)
	})
}

// flaky fails each write that fail says, after taking half of it.
type flaky struct {
	bytes.Buffer
	fail error
}

func (f *flaky) Write(text []byte) (int, error) {
	if f.fail != nil {
		n, _ := f.Buffer.Write(text[:len(text)/2])
		return n, f.fail
	}
	return f.Buffer.Write(text)
}

func TestWhatCouldNotBeWrittenIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &flaky{fail: unix.ENOSPC}
		log, j := open(out, Options{})
		log.Error("lost on a full disk")
		synctest.Wait()
		log.Info("lost as well")
		synctest.Wait()
		if got := j.Dropped(); got["error"] != 1 || got["info"] != 1 || got["warn"] != 0 {
			t.Errorf("dropped %v", got)
		}
		out.fail = nil
		log.Info("again")
		closed(t, j)
		_, whole, _ := strings.Cut(out.String(), "\n") // behind the torn record
		got := lines(t, []byte(whole))
		if len(got) != 2 || got[0]["message"] != "again" || got[1]["dropped"] != 2.0 || got[1]["dropped_errors"] != 1.0 {
			t.Errorf("%q", out.String())
		}
	})
}

// busy is an output that another process made non-blocking.
type busy struct {
	bytes.Buffer
	left int
}

func (b *busy) Write(text []byte) (int, error) {
	if b.left--; b.left >= 0 {
		n, _ := b.Buffer.Write(text[:1])
		return n, fmt.Errorf("write: %w", unix.EAGAIN)
	}
	return b.Buffer.Write(text)
}

func TestANonBlockingOutputIsTriedAgain(t *testing.T) {
	out := &busy{left: 3}
	log, j := open(out, Options{})
	log.Info("all of it")
	closed(t, j)
	if got := lines(t, out.Bytes()); len(got) != 1 || got[0]["message"] != "all of it" {
		t.Errorf("%q", out.String())
	}
	if got := j.Dropped()["info"]; got != 0 {
		t.Errorf("dropped %d", got)
	}
}

// pieces remembers how it was written to.
type pieces struct{ all [][]byte }

func (p *pieces) Write(text []byte) (int, error) {
	p.all = append(p.all, bytes.Clone(text))
	return len(text), nil
}

func TestLinesThatShareAPipeStayWhole(t *testing.T) {
	var out pieces
	j := New(&out, JSON(nil), Options{})
	log := slog.New(j.Handler())
	for i := range 100 {
		log.Info("x", "pad", strings.Repeat("x", 7*i))
	}
	log.Info("long", "pad", strings.Repeat("x", 2*chunk))
	go j.Run()
	closed(t, j)
	if len(out.all) > 20 {
		t.Errorf("%d writes for 101 records", len(out.all))
	}
	for _, piece := range out.all {
		if count := bytes.Count(piece, []byte("\n")); piece[len(piece)-1] != '\n' || len(piece) > chunk && count > 1 {
			t.Errorf("a write of %d bytes with %d ends of lines", len(piece), count)
		}
	}
}

func TestConcurrentLoggersLoseNothingUncounted(t *testing.T) {
	const loggers, records = 8, 2000
	r, w := io.Pipe()
	log, j := open(w, Options{Records: 64})
	read := make(chan int)
	go func() {
		count := 0
		for s := bufio.NewScanner(r); s.Scan(); {
			if !strings.Contains(s.Text(), keyDropped) {
				count++
			}
		}
		read <- count
	}()
	done := make(chan struct{})
	for range loggers {
		go func() {
			for i := range records {
				if log.Info("x", "i", i); i%100 == 0 {
					log.Error("y", "i", i)
				}
			}
			done <- struct{}{}
		}()
	}
	for range loggers {
		<-done
	}
	closed(t, j)
	w.CloseWithError(errors.New("done"))
	got := <-read
	if dropped := int(j.Dropped()["info"] + j.Dropped()["error"]); got+dropped != loggers*(records+records/100) {
		t.Errorf("%d read and %d dropped, of %d", got, dropped, loggers*(records+records/100))
	}
}

// access is a record as the proxy writes one for each connection.
func access(log *slog.Logger) {
	r := slog.NewRecord(time.Now(), slog.LevelInfo, "connection complete", 0)
	r.AddAttrs(slog.Attr{Value: slog.GroupValue(
		slog.String("src.addr", "10.77.1.2:43210"), slog.String("src.workload", "client-1"),
		slog.String("src.namespace", "mesh"), slog.String("src.identity", "spiffe://cluster.local/ns/mesh/sa/client"),
		slog.String("dst.addr", "10.77.2.2:15008"), slog.String("dst.hbone_addr", "10.77.2.2:80"),
		slog.String("dst.workload", "server-1"), slog.String("dst.namespace", "mesh"),
		slog.String("dst.identity", "spiffe://cluster.local/ns/mesh/sa/server"), slog.String("direction", "outbound"),
		slog.String("path", "tunnel"), slog.Uint64("bytes_sent", 123), slog.Uint64("bytes_recv", 4567),
		slog.String("duration", "12ms"), slog.String("result", "ok"), slog.String("response_flags", "-"))})
	_ = log.Handler().Handle(context.Background(), r)
}

// empty waits until Run has taken what is queued.
func (j *Journal) empty() {
	for waiting := true; waiting; runtime.Gosched() {
		j.mu.Lock()
		waiting = len(j.queued.ends) > 0
		j.mu.Unlock()
	}
}

// What the journal is compared with is one write for each record. Every record
// is written while the clock runs, but where the reader has stopped.
func BenchmarkRecord(b *testing.B) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	b.Run("direct", func(b *testing.B) {
		b.ReportAllocs()
		log := slog.New(slog.NewJSONHandler(null, nil))
		for b.Loop() {
			access(log)
		}
	})
	b.Run("journal", func(b *testing.B) {
		b.ReportAllocs()
		log, j := open(null, Options{})
		for i := 0; b.Loop(); i++ {
			if access(log); i%256 == 0 {
				j.empty()
			}
		}
		j.Close(time.Second)
		b.ReportMetric(float64(j.Dropped()["info"]), "dropped")
	})
	b.Run("stopped", func(b *testing.B) {
		log, _ := open(pipe(b), Options{})
		for b.Loop() {
			access(log)
		}
	})
}
