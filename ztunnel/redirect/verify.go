// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"reflect"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Verify asks the kernel whether everything is attached, pinned and filled in
// as it should be, and puts right what is not. It returns what was wrong:
// until then connections may have passed by ztunnel, so each is an alarm.
//
// A process that hands its pods to a newer one must stop calling it: what the
// newer one changes, it would change back.
func (d *Datapath) Verify(ctx context.Context) (repaired []string, err error) {
	d.sweepLegs()
	d.mu.Lock()
	defer d.mu.Unlock()
	repaired, err = d.verify(ctx)
	d.unsound = err
	return repaired, err
}

// Sound returns what the last Verify could not put right.
func (d *Datapath) Sound() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.unsound
}

// verify requires that d.mu is held. Without pins it changes nothing: they may
// be another ztunnel's by now.
func (d *Datapath) verify(ctx context.Context) (repaired []string, err error) {
	wrong, err := d.keepPins()
	if wrong != "" {
		repaired = append(repaired, wrong)
	}
	if err != nil {
		return repaired, fmt.Errorf("pins: %w", err)
	}
	var problems []error
	if time.Since(d.swept) > staleAfter {
		problems, d.swept = append(problems, d.sweepPublished()), time.Now()
	}
	check := func(wrong string, err error) {
		if err != nil {
			problems = append(problems, err)
		} else if wrong != "" {
			repaired = append(repaired, wrong)
		}
	}
	check("", d.pins.make())
	check("", d.followKubelet())
	for name, m := range d.maps() {
		check(d.verifyMap(name, m))
	}
	changed, err := d.exclude()
	repaired = append(repaired, changed...)
	check("", err)
	for _, a := range d.anchors {
		check(a.verify())
	}
	strays, err := d.verifyAddrs()
	repaired, problems = append(repaired, strays...), append(problems, err)
	strays, err = d.verifyProbePorts()
	repaired, problems = append(repaired, strays...), append(problems, err)
	for _, p := range d.pods {
		if ctx.Err() != nil {
			return repaired, errors.Join(append(problems, ctx.Err())...)
		}
		if p.inbound {
			check(d.verifyInbound(p))
			check(p.anchor.verify())
		}
		if p.outbound {
			check(d.verifyOutbound(p))
		}
	}
	return repaired, errors.Join(problems...)
}

// maps are the pinned ones, by the names of their pins.
func (d *Datapath) maps() map[string]*ebpf.Map {
	found := make(map[string]*ebpf.Map)
	all := reflect.ValueOf(d.mesh.meshMaps)
	for i := range all.NumField() {
		found[all.Type().Field(i).Tag.Get("ebpf")] = all.Field(i).Interface().(*ebpf.Map)
	}
	return found
}

// verifyMap pins a map that is not any more. The programs hold it, but the next
// ztunnel would begin with an empty one: pods would be released until it has
// enrolled them again.
func (d *Datapath) verifyMap(name string, m *ebpf.Map) (wrong string, err error) {
	pin := filepath.Join(d.pins.dir, name)
	if samePinned(m, pin) {
		return "", nil
	}
	again, err := m.Clone() // ours believes that it is pinned
	if err != nil {
		return "", fmt.Errorf("open map %s again: %w", name, err)
	}
	defer again.Close()
	if err := repin(again, pin); err != nil {
		return "", fmt.Errorf("pin map %s: %w", name, err)
	}
	return "pin of map " + name + " was removed", nil
}

// samePinned says whether the pin is this very map.
func samePinned(m *ebpf.Map, pin string) bool {
	there, err := ebpf.LoadPinnedMap(pin, nil)
	if err != nil {
		return false
	}
	defer there.Close()
	theirs, err := objectID(there.FD())
	if err != nil {
		return false
	}
	ours, err := objectID(m.FD())
	return err == nil && ours == theirs
}

func (d *Datapath) verifyInbound(p *pod) (wrong string, err error) {
	cookie := uint64(p.NS.Cookie())
	for kind, ln := range p.Listeners.all() {
		if ln == nil {
			continue
		}
		if wrong, err := d.verifyListener(cookie, kind, ln); err != nil {
			return "", err
		} else if wrong == "" {
			continue
		} else if err := d.fillInbound(p.Sandbox); !errors.Is(err, net.ErrClosed) {
			return wrong, err
		}
		return "", nil // its owner closed it: the pod is being left, and refused until then
	}
	return "", nil
}

// verifyListener asks whether the programs would hand connections to ln: the
// map shows a socket by its cookie. Another ztunnel's would answer otherwise.
func (d *Datapath) verifyListener(cookie uint64, kind meshListenerKind, ln *net.TCPListener) (wrong string, err error) {
	var theirs, ours uint64
	err = d.mesh.Listeners.Lookup(meshListenerKey{Netns: cookie, Kind: kind}, &theirs)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Sprintf("listener %v of netns %d was removed", ln.Addr(), cookie), nil
	}
	if err != nil {
		return "", fmt.Errorf("look up listener %v: %w", ln.Addr(), err)
	}
	err = withFd(ln, func(fd int) (err error) {
		ours, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
		return err
	})
	if err == nil && ours == theirs || errors.Is(err, net.ErrClosed) {
		return "", nil // closed: as above
	}
	if err != nil {
		return "", fmt.Errorf("socket cookie of listener %v: %w", ln.Addr(), err)
	}
	return fmt.Sprintf("listener %v of netns %d was replaced", ln.Addr(), cookie), nil
}

func (d *Datapath) verifyOutbound(p *pod) (wrong string, err error) {
	cookie := uint64(p.NS.Cookie())
	var entry meshPod
	err = d.mesh.Pods.Lookup(cookie, &entry)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return "", fmt.Errorf("look up netns %d: %w", cookie, err)
	}
	if err == nil && entry == d.entry(p) {
		return "", nil
	}
	return fmt.Sprintf("entry of netns %d was changed", cookie), d.fillPod(p)
}
