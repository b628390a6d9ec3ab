// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/culvert-mesh/culvert/test/lab"
)

// slice is how many connections a row opens before it is the next one's turn:
// short against whatever else the machine does, long against a cold cache.
const slice = 250

type options struct {
	labs        int // made anew
	repetitions int // in each lab
	connects    int // of each row and family in a repetition
	pods        int // to enroll
	out         string
}

// whole is what a run must have to replace the committed one.
var whole = options{labs: 3, repetitions: 7, connects: 2000, pods: 100}

// Where runs are written, from the directory bench: the whole ones, which are
// committed, and all others.
const (
	committed = "results/steering.json"
	apart     = "../bin/bench/steering.json"
)

// destination returns the file to write. A run with notes lacks a row.
func (o options) destination(notes []string) string {
	isWhole := o.labs >= whole.labs && o.repetitions >= whole.repetitions &&
		o.connects >= whole.connects && o.pods >= whole.pods && len(notes) == 0
	if isWhole || filepath.Clean(o.out) != committed {
		return o.out
	}
	fmt.Fprintf(os.Stderr, "steering: this run is written to %s, and bench/%s stays as it is: it is not a whole one\n", strings.TrimPrefix(apart, "../"), committed)
	return apart
}

// measurement is all samples of one row and family, by repetition.
type measurement struct {
	row, family string
	by          *worker
	samples     [][]sample
}

// bench is the rows' workers in the pods of a lab.
type bench struct {
	lab     *lab.Lab
	orders  *net.UnixListener
	self    string
	workers []*worker
	notes   []string

	measured []*measurement
}

type worker struct {
	row  string
	conn net.Conn
	say  *json.Encoder
	hear *json.Decoder
}

// measureConnects runs the rows by turns and returns what it measured, with
// notes on what it could not. It does so in one lab after the other: where
// sockets and map entries happen to lie differs from pod to pod by more than
// from repetition to repetition.
func measureConnects(ctx context.Context, opts options) (all []*measurement, notes []string, err error) {
	for range opts.labs {
		b, err := newBench(ctx)
		if err != nil {
			return nil, nil, err
		}
		for range opts.repetitions {
			if err := b.repeat(ctx, opts.connects); err != nil {
				return nil, nil, errors.Join(err, b.close())
			}
		}
		if err := b.close(); err != nil {
			return nil, nil, err
		}
		all, notes = merge(all, b.measured), b.notes
	}
	return all, notes, nil
}

// merge adds the repetitions of more, which has the same rows.
func merge(all, more []*measurement) []*measurement {
	if all == nil {
		return more
	}
	for i, m := range more {
		all[i].samples = append(all[i].samples, m.samples...)
	}
	return all
}

// newBench makes two nodes without a mesh: one whose pods no program sees, and
// one that has the programs, loaded by the steered row's worker.
func newBench(ctx context.Context) (_ *bench, err error) {
	l, err := lab.New(ctx, lab.Options{Nodes: 2, Unmeshed: true})
	if err != nil {
		return nil, err
	}
	b := &bench{lab: l}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if err := l.Namespace("bench", nil); err != nil {
		return nil, err
	}
	if b.self, err = os.Executable(); err != nil {
		return nil, err
	}
	addr := &net.UnixAddr{Name: filepath.Join(l.Dir(), "bench.sock"), Net: "unix"}
	if b.orders, err = net.ListenUnix("unix", addr); err != nil {
		return nil, err
	}
	rows := []string{plain, unenrolled, steered, nft}
	if _, err := exec.LookPath("nft"); err != nil {
		rows = rows[:3]
		b.notes = append(b.notes, "no row nft: the program nft (Debian: nftables) is not installed")
	}
	for _, row := range rows {
		node := l.Nodes[0]
		if row == unenrolled || row == steered {
			node = l.Nodes[1]
		}
		if err := b.start(ctx, row, node); err != nil {
			return nil, fmt.Errorf("row %s: %w", row, err)
		}
	}
	// All rows of a family before those of the other: the order of the turns.
	for _, family := range families {
		for _, w := range b.workers {
			b.measured = append(b.measured, &measurement{row: w.row, family: family, by: w})
		}
	}
	return b, nil
}

// start starts a row's worker in a pod of its own.
func (b *bench) start(ctx context.Context, row string, node *lab.Node) error {
	p, err := node.Pod(ctx, lab.PodSpec{Namespace: "bench", Name: row})
	if err != nil {
		return err
	}
	_, err = p.Start("worker", b.self, workerCommand, "-row", row, "-socket", b.orders.Addr().String(),
		"-ip4", p.IP4.String(), "-ip6", p.IP6.String(), "-bpffs", node.BPFFS, "-cgroup", node.Cgroup)
	if err != nil {
		return err
	}
	if err := b.orders.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	conn, err := b.orders.Accept()
	if err != nil {
		return fmt.Errorf("its worker does not answer: %w\n%s", err, b.lab.Logs())
	}
	w := &worker{row: row, conn: conn, say: json.NewEncoder(conn), hear: json.NewDecoder(conn)}
	b.workers = append(b.workers, w)
	_, err = w.listen(ctx)
	return err
}

// repeat adds one repetition of so many connections to each measurement.
func (b *bench) repeat(ctx context.Context, connects int) error {
	for _, m := range b.measured {
		m.samples = append(m.samples, nil)
	}
	for left := connects; left > 0; left -= slice {
		for _, m := range b.measured {
			samples, err := b.turn(ctx, m, min(left, slice))
			if err != nil {
				return fmt.Errorf("row %s, %s: %w", m.row, m.family, err)
			}
			last := &m.samples[len(m.samples)-1]
			*last = append(*last, samples...)
		}
	}
	return nil
}

// turn has one row's worker open n connections.
func (b *bench) turn(ctx context.Context, m *measurement, n int) ([]sample, error) {
	if err := m.by.say.Encode(order{m.family, n}); err != nil {
		return nil, err
	}
	return m.by.listen(ctx)
}

// listen hears an answer. A worker that says nothing for long is stuck.
func (w *worker) listen(ctx context.Context) ([]sample, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if err := w.conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return nil, err
	}
	var a answer
	if err := w.hear.Decode(&a); err != nil {
		return nil, err
	}
	if a.Error != "" {
		return nil, errors.New(a.Error)
	}
	return a.Samples, nil
}

func (b *bench) close() error {
	for _, w := range b.workers {
		w.conn.Close() // its worker ends
	}
	if b.orders != nil {
		b.orders.Close()
	}
	return b.lab.Close()
}
