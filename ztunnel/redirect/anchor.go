// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// pins are the directories that keep everything alive without us. bpffs
// reserves names with dots.
type pins struct{ root, dir, links, pods string }

func newPins(root string) pins { return pinsOf(root, layout) }

func pinsOf(root string, version int) pins {
	dir := filepath.Join(root, "v"+strconv.Itoa(version))
	return pins{root, dir, filepath.Join(dir, "links"), filepath.Join(dir, "netns")}
}

func (p pins) make() error {
	for _, dir := range []string{p.root, p.dir, p.links, p.pods} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make directory for pins: %w", err)
		}
		if err := os.Chmod(dir, 0o700); err != nil {
			return fmt.Errorf("close directory of pins: %w", err)
		}
	}
	return nil
}

// remove removes the links first: a map without links steers nothing.
func (p pins) remove() error {
	for _, dir := range []string{p.links, p.pods, p.dir} {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove pins: %w", err)
		}
	}
	return nil
}

func (p pins) pod(cookie netns.Cookie) string {
	return filepath.Join(p.pods, strconv.FormatUint(uint64(cookie), 10))
}

func parseCookie(name string) (netns.Cookie, bool) {
	n, err := strconv.ParseUint(name, 10, 64)
	return netns.Cookie(n), err == nil
}

// anchor is a program's link and the pin that keeps it when we are gone.
type anchor struct {
	name     string
	pin      string
	at       ebpf.AttachType
	attach   func() (link.Link, error)
	attached func(*link.Info) bool
	prog     *ebpf.Program
	link     link.Link
}

// open takes over the link of an earlier run and makes it execute prog from now on,
// in one step. A pin that is no good is replaced.
func (a *anchor) open(prog *ebpf.Program) error {
	a.prog = prog
	l, err := link.LoadPinnedLink(a.pin, nil)
	if err != nil {
		return a.replace()
	}
	if a.holds(l) && l.Update(prog) == nil {
		a.close()
		a.link = l
		return nil
	}
	l.Close()
	return a.replace()
}

// replace attaches anew, and only then lets the old pin go.
func (a *anchor) replace() error {
	l, err := a.attach()
	if err != nil {
		return fmt.Errorf("attach %s: %w", a.name, err)
	}
	return a.change(l)
}

// change pins l in the place of the link before, and only then closes that.
func (a *anchor) change(l link.Link) error {
	if err := repin(l, a.pin); err != nil {
		l.Close()
		return fmt.Errorf("pin %s: %w", a.name, err)
	}
	a.close()
	a.link = l
	return nil
}

func repin(l interface{ Pin(string) error }, pin string) error {
	temp := pin + "_new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := l.Pin(temp); err != nil {
		return err
	}
	return os.Rename(temp, pin)
}

// verify asks the kernel whether the program is attached, this very one, and
// its link pinned, and makes it so. It says what was wrong.
func (a *anchor) verify() (wrong string, err error) {
	if a.link == nil || !a.holds(a.link) {
		return a.name + " was detached", a.replace()
	}
	if runs, err := a.runs(); err != nil {
		return "", err
	} else if !runs {
		if err := a.link.Update(a.prog); err != nil {
			return "", fmt.Errorf("replace the program of %s: %w", a.name, err)
		}
		wrong = a.name + " ran another program"
	}
	if a.pinned() {
		return wrong, nil
	}
	return "pin of " + a.name + " was removed", a.pinAgain()
}

// runs says whether the link runs our program.
func (a *anchor) runs() (bool, error) {
	info, err := a.link.Info()
	if err != nil {
		return false, fmt.Errorf("ask for link of %s: %w", a.name, err)
	}
	id, err := objectID(a.prog.FD())
	if err != nil {
		return false, fmt.Errorf("ask for program of %s: %w", a.name, err)
	}
	return uint32(info.Program) == id, nil
}

// pinAgain pins by a second handle: ours believes that it is pinned.
func (a *anchor) pinAgain() error {
	info, err := a.link.Info()
	if err != nil {
		return fmt.Errorf("ask for link of %s: %w", a.name, err)
	}
	l, err := link.NewFromID(info.ID)
	if err != nil {
		return fmt.Errorf("open link of %s: %w", a.name, err)
	}
	return a.change(l)
}

func (a *anchor) holds(l link.Link) bool {
	info, err := l.Info()
	return err == nil && a.attached(info)
}

// pinned says whether the pin is this very link.
func (a *anchor) pinned() bool {
	l, err := link.LoadPinnedLink(a.pin, nil)
	if err != nil {
		return false
	}
	defer l.Close()
	theirs, err := l.Info()
	if err != nil {
		return false
	}
	ours, err := a.link.Info()
	return err == nil && ours.ID == theirs.ID
}

func (a *anchor) close() {
	if a != nil && a.link != nil {
		a.link.Close()
		a.link = nil
	}
}

// remove detaches the program, and has done so when it returns: the last
// reference to a link goes, and takes it along, only some time later.
func (a *anchor) remove() error {
	l, err := a.link, error(nil)
	if l == nil {
		l, err = link.LoadPinnedLink(a.pin, nil)
	}
	if err == nil {
		err = l.Detach()
		l.Close()
	}
	a.link = nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOLINK) {
		return fmt.Errorf("detach %s: %w", a.name, err)
	}
	if err := os.Remove(a.pin); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove pin of %s: %w", a.name, err)
	}
	return nil
}

// hookNames are the pins of the links in attach.
var hookNames = []string{"sockops", "getpeername4", "getpeername6", "connect4", "connect6"}

// attach attaches the cgroup programs: sockops first, as a destination that
// is kept but not published is refused.
func (d *Datapath) attach() error {
	for _, p := range []struct {
		name string
		at   ebpf.AttachType
		prog *ebpf.Program
	}{
		{"sockops", ebpf.AttachCGroupSockOps, d.mesh.OutboundSockops},
		{"getpeername4", ebpf.AttachCgroupInet4GetPeername, d.mesh.OutboundGetpeername4},
		{"getpeername6", ebpf.AttachCgroupInet6GetPeername, d.mesh.OutboundGetpeername6},
		{"connect4", ebpf.AttachCGroupInet4Connect, d.mesh.OutboundConnect4},
		{"connect6", ebpf.AttachCGroupInet6Connect, d.mesh.OutboundConnect6},
	} {
		a := &anchor{
			name:     p.name,
			pin:      filepath.Join(d.pins.links, p.name),
			at:       p.at,
			attach:   func() (link.Link, error) { return attachCgroup(d.opts.Cgroup, p.at, p.prog) },
			attached: func(i *link.Info) bool { return isOnCgroup(i, d.opts.Cgroup) },
		}
		if err := a.open(p.prog); err != nil {
			return err
		}
		d.anchors = append(d.anchors, a)
	}
	return nil
}

func attachCgroup(path string, at ebpf.AttachType, prog *ebpf.Program) (link.Link, error) {
	return link.AttachCgroup(link.CgroupOptions{Path: path, Attach: at, Program: prog})
}

func isOnCgroup(info *link.Info, path string) bool {
	var st unix.Stat_t
	cg := info.Cgroup()
	return cg != nil && unix.Stat(path, &st) == nil && cg.CgroupId == st.Ino
}

// adopt makes the links of pods of an earlier run execute the new program at once:
// the pods are enrolled again only when the registry knows them.
func (d *Datapath) adopt() error {
	cookies, err := d.pins.adopted()
	if err != nil {
		return err
	}
	for _, cookie := range cookies {
		l, err := link.LoadPinnedLink(d.pins.pod(cookie), nil)
		if err != nil {
			continue // SteerInbound replaces it, Reconcile removes it
		}
		err = l.Update(d.mesh.InboundLookup)
		l.Close()
		if err != nil && !errors.Is(err, unix.ENOLINK) { // of a netns that is gone
			return fmt.Errorf("replace inbound program of netns %d: %w", cookie, err)
		}
	}
	return nil
}
