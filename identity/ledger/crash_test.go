// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	childDir   = "LEDGER_TEST_DIR"   // has the test's program be a process that appends there
	childLimit = "LEDGER_TEST_LIMIT" // and whose files cannot grow beyond so many bytes for a while
)

// child appends from several goroutines without end, and prints each serial number whose
// line is written.
func child(dir string) {
	l, err := Open(Options{Dir: dir, Replica: "ca-1"})
	if err != nil {
		panic(err)
	}
	l.fileBytes, l.patience = 16<<10, time.Minute // a machine that stalls answers nothing too early
	ctx, end := context.WithCancel(context.Background())
	defer end()
	if os.Getenv(childLimit) != "" {
		grow(ctx, end, l)
		return
	}
	go func() { panic(l.Run(ctx)) }()
	var out sync.Mutex
	for worker := range 4 {
		go func() {
			for i := 0; ; i++ {
				d := decision(0)
				d.Serial = fmt.Sprintf("%d-%d-%d", os.Getpid(), worker, i)
				l.Issued(d)
				out.Lock()
				fmt.Println(d.Serial)
				out.Unlock()
			}
		}()
	}
	select {}
}

// kill starts a child, and kills it when it has said so many lines.
func kill(t *testing.T, dir string, lines int) (said []string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for in := bufio.NewScanner(out); in.Scan(); {
		if said = append(said, in.Text()); len(said) == lines {
			_ = cmd.Process.Kill()
		}
	}
	if err := cmd.Wait(); err == nil || len(said) < lines {
		t.Fatalf("the child ended by itself: %v\n%s", err, &complaint)
	}
	return said
}

// What was answered is in the ledger, whenever the process was killed, and no trace of it
// is taken for another hand's.
func TestAProcessThatIsKilledLosesNoLineThatWasAnswered(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	answered := map[string]bool{}
	times := 8
	if testing.Short() {
		times = 3
	}
	for i := range times {
		for _, serial := range kill(t, r.dir, 50+37*i) {
			answered[serial] = true
		}
		r.wantWhole() // as it was left
	}
	r.keep("ca-1", 1)
	var ended []string
	report, err := Verify(Question{Dir: r.dir}, func(r Record) {
		delete(answered, r.Serial)
		if r.Kind == KindStart {
			ended = append(ended, string(r.Ended))
		}
	})
	if err != nil || len(report.Faults) > 0 || len(answered) > 0 {
		t.Errorf("%d that were answered are not there; faults %v, %v", len(answered), report.Faults, err)
	}
	if want := "first" + strings.Repeat(" killed", times); strings.Join(ended, " ") != want {
		t.Errorf("starts after %v, want %s", ended, want)
	}
}

// unfinished leaves a ledger as a process that was killed does, with a head that promises
// all lines of it.
func (r *rig) unfinished(decisions int, boot string) {
	r.t.Helper()
	l, err := open(r.options("ca-1"), boot)
	if err != nil {
		r.t.Fatal(err)
	}
	end := r.run(l)
	for i := range decisions {
		l.Issued(decision(i))
	}
	end()
	h, said, err := openHead(filepath.Join(r.dir, "ca-1.head"))
	if err != nil {
		r.t.Fatal(err)
	}
	defer h.close()
	said.State, said.Signature, said.Signer = StateRunning, nil, ""
	for range 2 { // both slots
		if err := h.write(said); err != nil {
			r.t.Fatal(err)
		}
	}
}

// lastFile is the file that was written to last.
func (r *rig) lastFile() string {
	files := r.files("ca-1-*.jsonl")
	return files[len(files)-1]
}

// starts are the lines of KindStart.
func (r *rig) starts() (all []Record) {
	if _, err := Verify(Question{Dir: r.dir}, func(r Record) {
		if r.Kind == KindStart {
			all = append(all, r)
		}
	}); err != nil {
		r.t.Fatal(err)
	}
	return all
}

func TestALineThatWasBeingWrittenIsCutOffAndSaid(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.unfinished(2, bootID())
	path := r.lastFile()
	r.set(path, append(r.text(path), []byte(`{"seq":99,"ti`)...))
	if notes := strings.Join(r.wantWhole().Chains[0].Notes, " "); !strings.Contains(notes, "13 bytes without an end") {
		t.Errorf("notes %s", notes)
	}
	r.keep("ca-1", 1)
	r.wantWhole()
	start := r.starts()[1]
	if start.Ended != EndedKilled || start.Cut == nil || start.Cut.Bytes != 13 || start.Cut.SHA256 != hashOf([]byte(`{"seq":99,"ti`)).String() || start.Missing != nil {
		t.Errorf("start %+v", start.Upkeep)
	}
}

// A file system may have made a file longer and not have written what belongs there.
func TestWhatAMachineThatStoppedLeftBehindIsCutOff(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.unfinished(2, "another boot")
	path := r.lastFile()
	good := r.text(path)
	r.set(path, append(good, []byte("\x00\x00\x00\n\x00\x00")...))
	r.keep("ca-1", 1)
	r.wantWhole()
	if start := r.starts()[1]; start.Ended != EndedStopped || start.Cut == nil || start.Cut.Bytes != 6 {
		t.Errorf("start %+v", start.Upkeep)
	}

	// While the machine runs on, only another hand leaves a whole line of that kind.
	r = newRig(t)
	r.unfinished(2, bootID())
	path = r.lastFile()
	r.set(path, append(r.text(path), []byte("no record\n")...))
	r.keep("ca-1", 1)
	r.wantFault("it is no record")
}

// The next process goes on, and does not cover up what was taken away before.
func TestLinesThatWereOnDiskAndAreGoneStayMissing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.unfinished(4, bootID())
	path := r.lastFile()
	text := r.text(path)
	at := bytes.LastIndexByte(text[:len(text)-1], '\n')
	r.set(path, text[:at+1])
	r.wantFault("the end is cut off")
	l := r.open("ca-1")
	if s := l.Stats(); s.Lost != 1 {
		t.Errorf("stats %+v", s)
	}
	end := r.run(l)
	l.Issued(decision(9))
	end()
	r.wantFault("are missing before it")
	if start := r.starts()[1]; start.Missing == nil || start.Missing.First != start.Missing.Last {
		t.Errorf("start %+v", start.Upkeep)
	}
}

// grow has a child's files reach their limit in the middle of a line, as on a full disk,
// and then has room again.
func grow(ctx context.Context, end context.CancelFunc, l *Ledger) {
	signal.Ignore(unix.SIGXFSZ)
	l.fileBytes = maxFile
	var was unix.Rlimit
	set := func(limit unix.Rlimit) {
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
			panic(err)
		}
	}
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &was); err != nil {
		panic(err)
	}
	set(unix.Rlimit{Cur: 10_000, Max: was.Max})
	ended := make(chan error)
	go func() { ended <- l.Run(ctx) }()
	for i := 0; !l.Stats().Failing; i++ {
		l.Issued(decision(i))
	}
	big := decision(0)
	big.Reason = strings.Repeat("x", maxText)
	began := time.Now()
	for l.Stats().Lost < 7 { // nobody waits for the disk any more
		l.Issued(big)
	}
	took := time.Since(began)
	set(was)
	for l.Stats().Failing {
		time.Sleep(time.Millisecond)
	}
	l.Denied(decision(1))
	end()
	err := <-ended
	s := l.Stats()
	fmt.Println(s.Issued, s.Denied, s.Lost, took < 20*time.Second, err)
}

func TestADiskThatIsFullLosesLinesThatAreCounted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+r.dir, childLimit+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var issued, denied, lost uint64
	var soon bool
	var end string
	if _, err := fmt.Sscan(string(out), &issued, &denied, &lost, &soon, &end); err != nil || !soon || end != "<nil>" {
		t.Fatalf("%s, %v", out, err)
	}
	kinds := map[Kind]uint64{}
	var gap *Missing
	report, err := Verify(Question{Dir: r.dir}, func(r Record) {
		kinds[r.Kind]++
		if r.Kind == KindGap {
			gap = r.Missing
		}
	})
	if err != nil || len(report.Faults) > 0 {
		t.Fatal(report.Faults, err)
	}
	if lost != 7 || gap == nil || gap.Issued != lost || report.Chains[0].Lost != lost || kinds[KindIssued] != issued-lost || kinds[KindDenied] != denied {
		t.Errorf("%d issued, %d denied, %d lost; lines %v, gap %+v, report %+v", issued, denied, lost, kinds, gap, report.Chains[0])
	}
}

// Somebody else's files, or nobody's, in the place of the ledger.
func TestADirectoryThatIsTakenAwayIsAFailure(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	l := r.open("ca-1")
	r.run(l)
	l.Issued(decision(1))
	if err := os.RemoveAll(r.dir); err != nil {
		t.Fatal(err)
	}
	r.set(r.dir, nil)
	eventually(t, "it says that it fails", func() bool {
		l.Issued(decision(2))
		return l.Stats().Failing && l.Stats().Lost > 0
	})
	if err := os.Remove(r.dir); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it goes on", func() bool { return !l.Stats().Failing })
	l.Issued(decision(3))
	r.wantFault("no line that is signed says that it was removed by rule")
}
