// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Anchorage keeps texts, by name, where whoever writes the ledger's files cannot change them.
// All replicas of a CA share one.
type Anchorage interface {
	All(ctx context.Context) (map[string][]byte, error)
	// Put replaces texts, and takes away those that are nil. Others stay as they are.
	Put(ctx context.Context, texts map[string][]byte) error
}

const (
	anchorEvery = time.Minute     // how often the anchors are looked at
	anchorAgain = 2 * time.Second // after a failure, or while there is nothing to anchor yet
	anchorFor   = 10 * time.Second
	anchorLast  = 2 * time.Second // at the end of the process
	maxAnchors  = 512             // of all replicas; a ConfigMap holds some 2,000
)

// AnchorState is what the checkpoints in an Anchorage prove of a chain.
//
//	waiting --they were read, and the chain has come to all of its replica's--> held
//	waiting, held --one of its replica's names a line that is not there--> lost
//	lost --an operator takes that one away--> held
type AnchorState string

// States of an anchor. The zero value is of a ledger without an Anchorage.
const (
	AnchorWaiting AnchorState = "waiting"
	AnchorHeld    AnchorState = "held"
	AnchorLost    AnchorState = "lost"
)

// Anchored is how a chain stands to its anchors.
type Anchored struct {
	State   AnchorState
	Chain   string    // its ID
	Seq     uint64    // that its anchor names; 0: it has none yet
	Current time.Time // when the anchor was last seen to name all that was on disk; the start of the process before that
	Lost    []string  // what is lost, a sentence for each anchor
	Problem string    // of the last look
}

// anchoring is what is known of the anchors. Only the goroutine that looks at them uses it.
type anchoring struct {
	last Checkpoint        // that this process has put for its chain, or found there and compared
	met  map[string]uint64 // Seq of anchors whose line is there, by name
	told map[string]unmet  // anchors whose line is not, by name
	said string            // the last problem
}

// unmet is an anchor whose line is not there.
type unmet struct {
	text string // of the anchor
	what string // is lost, a sentence
}

// anchorName is the name of a chain's anchor: another chain of the same replica has another.
func anchorName(replica, chain string) string { return replica + "." + chain }

// Anchored returns it.
func (l *Ledger) Anchored() Anchored {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.anchored
	a.Chain, a.Lost = l.chain, slices.Clone(a.Lost)
	return a
}

// useAnchors has the ledger begin to wait for its anchors, if it has any.
func (l *Ledger) useAnchors() {
	if l.opts.Anchors != nil {
		l.anchored = Anchored{State: AnchorWaiting, Current: time.Now()}
		l.anchoring = anchoring{met: map[string]uint64{}}
	}
}

// keepAnchored looks at the anchors until ctx ends. Nothing waits for them.
func (l *Ledger) keepAnchored(ctx context.Context) {
	for wait := time.Duration(0); l.opts.Anchors != nil; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = l.anchorEvery
		if !l.look(ctx, anchorFor) {
			wait = min(wait, anchorAgain)
		}
	}
}

// look compares the chain with its anchors and raises its own. It reports whether that names
// all that was on disk.
func (l *Ledger) look(ctx context.Context, within time.Duration) bool {
	timed, stop := context.WithTimeout(ctx, within)
	defer stop()
	current, err := l.anchor(timed)
	if ctx.Err() != nil {
		return current
	}
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	if problem != l.anchoring.said && problem != "" {
		l.opts.Log.Warn("the checkpoint of the ledger that is kept outside of its disk cannot be renewed; certificates are issued nevertheless", logError, problem)
	}
	l.anchoring.said = problem
	l.mu.Lock()
	defer l.mu.Unlock()
	l.anchored.Problem = problem
	if current {
		l.anchored.Current = time.Now()
	}
	return current
}

func (l *Ledger) anchor(ctx context.Context) (current bool, err error) {
	all, err := l.opts.Anchors.All(ctx)
	if err != nil {
		return false, err
	}
	if err := l.compare(all); err != nil {
		return false, err
	}
	l.mu.Lock()
	next, chain := l.promised, l.chain
	l.mu.Unlock()
	if next.Chain != chain || next.Seq == 0 || next.Signer == "" && l.opts.Certify != nil {
		return false, nil // the head does not say it yet, or nobody vouches for it
	}
	name := anchorName(l.opts.Replica, chain)
	if lost, is := l.anchoring.told[name]; is { // and it stays until another hand takes it away
		l.anchoring.last = Checkpoint{}
		return false, fmt.Errorf("%s is not put over: %s", name, lost.what)
	}
	own, there := parseAnchor(name, all[name])
	l.missed(chain, own, there)
	if there && own.Seq >= next.Seq {
		l.raised(own)
		return true, nil
	}
	text, err := json.Marshal(next)
	if err != nil {
		return false, err
	}
	texts := map[string][]byte{name: text}
	if !there {
		maps.Copy(texts, l.outdated(all, next.Time))
	}
	if err := l.opts.Anchors.Put(ctx, texts); err != nil {
		return false, err
	}
	l.raised(next)
	return true, nil
}

func (l *Ledger) raised(c Checkpoint) {
	l.anchoring.last = c
	l.mu.Lock()
	defer l.mu.Unlock()
	l.anchored.Seq = c.Seq
}

// missed tells of another hand that has taken the chain's anchor away, or put an older one.
func (l *Ledger) missed(chain string, own Checkpoint, there bool) {
	last := l.anchoring.last
	switch {
	case last.Seq == 0 || last.Chain != chain || there && own.Seq >= last.Seq:
	case there:
		l.alarm(fmt.Sprintf("another hand has put the checkpoint of the ledger of %s back from seq %d to seq %d; it is raised again", l.opts.Replica, last.Seq, own.Seq))
	default:
		l.alarm(fmt.Sprintf("another hand has taken away the checkpoint of the ledger of %s of seq %d; it is put again", l.opts.Replica, last.Seq))
	}
}

func (l *Ledger) alarm(what string) {
	l.opts.Log.Error(what, logDirectory, l.opts.Dir)
	if l.opts.Alarm != nil {
		l.opts.Alarm(what)
	}
}

// compare looks for the line that each anchor of this replica names. An anchor whose line is
// not there stays as it is. If it is of this chain, another chain begins, so that no anchor is
// ever raised over lines that are lost.
func (l *Ledger) compare(all map[string][]byte) error {
	chains, err := chainsOf(l.opts.Dir)
	if err != nil {
		return err
	}
	lost := map[string]unmet{}
	for name, text := range all {
		c, ok := parseAnchor(name, text)
		switch {
		case !ok && strings.HasPrefix(name, l.opts.Replica+"."):
			lost[name] = unmet{string(text), fmt.Sprintf("%s is no checkpoint of a ledger", name)}
			continue
		case !ok || c.Replica != l.opts.Replica || l.knows(name, c):
			continue
		case l.anchoring.told[name].text == string(text):
			lost[name] = l.anchoring.told[name]
		default:
			met, err := l.meets(chains, c)
			if err != nil {
				return err
			}
			if met {
				l.anchoring.met[name] = c.Seq
				continue
			}
			lost[name] = unmet{string(text), fmt.Sprintf("the chain %s of %s had come to seq %d at %s, and that line is not in its ledger: an older state was put back, or files were lost", c.Chain, c.Replica, c.Seq, c.Time.Format(time.RFC3339))}
		}
		if c.Chain == l.chainNow() {
			l.begin(c)
		}
	}
	l.tell(lost)
	return nil
}

// meets reports whether the line that an anchor names is there, or was removed by rule.
func (l *Ledger) meets(chains map[string]*chain, c Checkpoint) (bool, error) {
	var files []file
	if own := chains[c.Replica]; own != nil {
		files = own.files
	}
	if there, err := hasLine(files, c); err != nil || there {
		return there, err
	}
	return wentByRule(chains, l.roots(), c)
}

// roots are those that vouch for checkpoints. Nil: nobody signs them.
func (l *Ledger) roots() []*x509.Certificate {
	switch {
	case l.opts.Certify == nil:
		return nil
	case l.opts.Roots == nil:
		return []*x509.Certificate{}
	}
	return append([]*x509.Certificate{}, l.opts.Roots()...)
}

// knows reports whether the line of an anchor was found before. It may have been removed by
// rule since.
func (l *Ledger) knows(name string, c Checkpoint) bool {
	last := l.anchoring.last
	return l.anchoring.met[name] == c.Seq || c.Chain == last.Chain && c.Seq == last.Seq && c.Hash == last.Hash
}

// tell raises an alarm for what is newly lost.
func (l *Ledger) tell(lost map[string]unmet) {
	names := slices.Sorted(maps.Keys(lost))
	for _, name := range names {
		if l.anchoring.told[name].what != lost[name].what {
			l.alarm(lost[name].what)
		}
	}
	l.anchoring.told = lost
	l.mu.Lock()
	defer l.mu.Unlock()
	l.anchored.State, l.anchored.Lost = AnchorHeld, nil
	for _, name := range names {
		l.anchored.State, l.anchored.Lost = AnchorLost, append(l.anchored.Lost, lost[name].what)
	}
}

func (l *Ledger) chainNow() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.chain
}

// begin has lines be of another chain from now on. A line says which anchor was not met. While
// there is no room for that line, the chain stays as it is, and the next look tries again.
func (l *Ledger) begin(lost Checkpoint) {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := newChain()
	if l.roomLocked() && l.takeLocked(Record{Kind: KindPutBack, Upkeep: Upkeep{Chain: next, Anchor: &lost}}) {
		l.chain = next
		l.anchored.Seq = 0
		l.wake()
	}
}

// outdated are the anchors that go by rule when another comes: they are older than any line
// that is kept, or there are too many. Those whose line is lost stay. A clock that is wrong
// makes no anchor old: its age is what the youngest of the others has over it.
func (l *Ledger) outdated(all map[string][]byte, now time.Time) map[string][]byte {
	type aged struct {
		name string
		at   time.Time
	}
	var others []aged
	for name, text := range all {
		c, ok := parseAnchor(name, text)
		if _, lost := l.anchoring.told[name]; ok && !lost {
			others = append(others, aged{name, c.Time})
		}
	}
	slices.SortFunc(others, func(a, b aged) int { return cmp.Or(b.at.Compare(a.at), cmp.Compare(a.name, b.name)) })
	if len(others) > 0 && others[0].at.Before(now) {
		now = others[0].at
	}
	gone := map[string][]byte{}
	for i, o := range others {
		if now.Sub(o.at) > l.opts.MaxAge || i >= maxAnchors-1-len(l.anchoring.told) {
			gone[o.name] = nil
			l.opts.Log.Info("a checkpoint of a former ledger is dropped by rule", logAnchor, o.name)
		}
	}
	return gone
}

// parseAnchor reads a text of that name. What a head has no room for is no checkpoint.
func parseAnchor(name string, text []byte) (c Checkpoint, ok bool) {
	if len(text) >= headSlot || json.Unmarshal(text, &c) != nil || c.Seq == 0 || name != anchorName(c.Replica, c.Chain) {
		return Checkpoint{}, false
	}
	if !isHex(c.Chain) || !isHash(c.Hash) || c.Signer != "" && !isHash(c.Signer) {
		return Checkpoint{}, false
	}
	return c, true
}

func isHex(text string) bool {
	_, err := hex.DecodeString(text)
	return err == nil && text != ""
}

func isHash(text string) bool { return isHex(text) && len(text) == hex.EncodedLen(len(hash{})) }

// errNoAnchor is of a text that holds no checkpoint.
var errNoAnchor = errors.New("it holds no checkpoint of a ledger")

// ReadAnchors reads the checkpoints of an Anchorage.
func ReadAnchors(texts map[string]string) (all []Checkpoint, err error) {
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		c, ok := parseAnchor(name, []byte(texts[name]))
		if !ok {
			return nil, fmt.Errorf("%s: %w", name, errNoAnchor)
		}
		all = append(all, c)
	}
	return all, nil
}
